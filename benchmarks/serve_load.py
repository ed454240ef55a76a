"""
A flood on a served gallery: are all requests answered or refused, and does the server's memory stay where it is?

    python benchmarks/serve_load.py runs/gallery
    python benchmarks/serve_load.py runs/gallery --rounds 10 --requests 1000 --threads 50

Runs `scmm serve` and sends it searches, images, explanations and events of the page from many threads. Prints for each
round how many requests had which status, the time, and the resident memory of the server. Fails if a request has no
answer, or one other than 200 and 503 (busy).
"""

import argparse
import re
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import httpx
import psutil


SENTENCES = ["a woman in a red coat with a black backpack", "a man in a blue jacket", "a person with a hat"]


def requests_of(client: httpx.Client, count: int) -> list[httpx.Request]:
    """Searches, images and explanations of what they find, and the page's own searches."""
    found = client.get("/api/search", params={"q": SENTENCES[0]}).raise_for_status().json()["results"]
    config = client.get("/config").raise_for_status().json()
    page_search = next(entry for entry in config["dependencies"] if len(entry["targets"]) == 2)
    values = [None if one["type"] == "state" else one["props"].get("value") for one in config["components"]]
    by_id = dict(zip((one["id"] for one in config["components"]), values, strict=True))
    requests = []
    for number in range(count):
        sentence, id = SENTENCES[number % len(SENTENCES)], found[number % len(found)]["id"]
        inputs = [by_id[entry] for entry in page_search["inputs"]]
        inputs[1] = sentence
        event = {"fn_index": page_search["id"], "data": inputs, "session_hash": f"session{number % 20}"}
        requests.append(
            [
                client.build_request("GET", "/api/search", params={"q": sentence}),
                client.build_request("GET", "/image", params={"id": id}),
                client.build_request("POST", "/gradio_api/run/predict", json=event),
                client.build_request("GET", "/api/why", params={"id": id, "q": sentence}),
            ][number % 4]
        )
    return requests


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("gallery")
    parser.add_argument("--requests", type=int, default=200, help="in a round")
    parser.add_argument("--threads", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()

    command = [sys.executable, "-m", "scmm.cli", "serve", args.gallery, "--port", "0"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        url = re.search(r"http://\S+", server.stdout.readline())
        if url is None:
            sys.exit("the server did not start")
        memory = psutil.Process(server.pid).memory_info
        limits = httpx.Limits(max_connections=args.threads)
        with (
            httpx.Client(base_url=url[0], timeout=120, limits=limits) as client,
            ThreadPoolExecutor(args.threads) as pool,
        ):
            requests = requests_of(client, args.requests)
            print(f"{args.requests} requests from {args.threads} threads; {memory().rss / 1e6:.0f} MB at the start")
            for number in range(args.rounds):
                start = time.perf_counter()
                statuses = Counter(answer.status_code for answer in pool.map(client.send, requests))
                seconds = time.perf_counter() - start
                print(f"round {number}: {dict(statuses)}, {seconds:.1f} s, {memory().rss / 1e6:.0f} MB")
                if set(statuses) - {200, 503}:
                    sys.exit("a request was neither answered nor refused")
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    main()
