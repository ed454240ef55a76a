"""The table of runs: the right runs together, the right statistics, and nothing invented."""

import statistics

import pytest

from scmm.results import find_runs, read_results, results_table, table_cells, write_json


def run(seed: int = 0, rank1: float = 40.0, recipe: str = "r.yaml", dataset: str = "paperdoll", **arguments) -> dict:
    metrics = {"rank1": rank1, "rank5": rank1 + 5, "rank10": rank1 + 9, "mAP": rank1 - 1, "mINP": rank1 - 8}
    return {
        "recipe": recipe,
        "data": {"dataset": dataset, "root": "data", "selection_split": "val"},
        "seed": seed,
        "selection": {"split": "val", "metric": "rank1"},
        "best": {"epoch": 2.0, "step": 20, "val": metrics, "test": metrics},
        "last": {"epoch": 3.0, "step": 30, "val": {**metrics, "rank1": rank1 - 2}, "test": metrics},
        "arguments": arguments,
    }


class TestTable:
    def test_mean_and_deviation_over_seeds(self):
        figures = [40.0, 43.5, 41.0]
        rows = results_table([run(seed, rank1) for seed, rank1 in enumerate(figures)])
        assert [row["checkpoint"] for row in rows] == ["best", "last"]
        assert rows[0]["seeds"] == [0, 1, 2]
        assert rows[0]["val"]["rank1"] == {"mean": statistics.fmean(figures), "std": statistics.stdev(figures)}
        assert rows[1]["val"]["rank1"]["mean"] == statistics.fmean(figures) - 2
        assert rows[0]["test"]["mINP"]["mean"] == pytest.approx(statistics.fmean(figures) - 8)
        assert (rows[0]["epoch"]["mean"], rows[1]["epoch"]["mean"]) == (2.0, 3.0)

    def test_one_run_has_no_deviation(self):
        assert results_table([run()])[0]["val"]["rank1"] == {"mean": 40.0, "std": None}

    def test_what_differs_in_more_than_the_seed_stays_apart(self):
        runs = [run(), run(recipe="s.yaml"), run(dataset="rstpreid"), run(margin_max=0.9, learning_rate=1e-3)]
        on_test = run()
        on_test["data"]["selection_split"] = "test"
        rows = results_table([*runs, on_test])[::2]
        assert [len(row["seeds"]) for row in rows] == [1] * 5
        assert [row["selection_split"] for row in rows] == ["val"] * 4 + ["test"]

    def test_only_arguments_that_differ_are_shown(self):
        rows = results_table([run(learning_rate=1e-3), run(learning_rate=1e-3, mining="all")])[::2]
        assert [row["arguments"] for row in rows] == [{"mining": "default"}, {"mining": "all"}]
        rows = results_table([run(), run(align=None)])[::2]
        assert [row["arguments"] for row in rows] == [{"align": "default"}, {"align": None}]

    def test_a_split_that_a_run_lacks_is_empty(self):
        lacking = run(seed=1)
        del lacking["best"]["test"]
        best, last = results_table([run(), lacking])
        assert best["test"] == {} and best["val"] and last["test"]

    def test_cells(self):
        header, cells = table_cells(results_table([run(seed, 40 + seed, "a/b.yaml + c/d.yaml") for seed in (0, 1)]))
        assert header[:5] == ["recipe", "data", "model", "seeds", "epoch"], "no column of arguments: none differ"
        assert cells[0][:6] == ["b + d", "paperdoll", "best on val", "2", "2.0 ± 0.0", "40.50 ± 0.71"]
        assert all(len(line) == len(header) for line in cells)
        assert table_cells([]) == ([], [])


class TestFiles:
    def test_round_trip(self, tmp_path):
        write_json(tmp_path / "results.json", run(seed=3))
        assert read_results(tmp_path) == run(seed=3)
        assert [path.name for path in tmp_path.iterdir()] == ["results.json"]

    def test_runs_below_a_folder(self, tmp_path):
        for name in ("b", "a/c"):
            (tmp_path / name).mkdir(parents=True)
            write_json(tmp_path / name / "results.json", run())
        assert find_runs(tmp_path) == [tmp_path / "a" / "c", tmp_path / "b"]
        assert find_runs(tmp_path / "b") == [tmp_path / "b"]

    def test_bad_files_are_named(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=f"{tmp_path} has no results.json"):
            read_results(tmp_path)
        path = tmp_path / "results.json"
        path.write_bytes(b"\xff")
        with pytest.raises(ValueError, match=f"{path} is broken"):
            read_results(tmp_path)
        path.write_text('{"data": {}}')
        with pytest.raises(ValueError, match=f"{path} is not the results of a run: it has no recipe, seed"):
            read_results(tmp_path)
