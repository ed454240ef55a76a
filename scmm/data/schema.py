"""The one normalized record that stands between every data set and everything else: one row per image."""

from datasets import Features, Image, List, Value


FEATURES = Features(
    {
        "image": Image(),  # lazy: the table holds the path
        "captions": List(Value("string")),
        "person_id": Value("int64"),  # as in the file: not contiguous, not always from 0
        "image_id": Value("int64"),  # position in the file
        "camera_id": Value("int64"),  # -1: unknown
        "file_name": Value("string"),  # relative to the image root, for messages and tables
    }
)
