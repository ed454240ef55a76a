"""Tables as files."""

import csv

from scmm.analysis.tables import markdown_table, write_csv


def test_csv_is_read_back(tmp_path):
    rows = [["a, b", 0.1 + 0.2, None], ['say "x"', 1e-300, 3]]
    path = write_csv(tmp_path / "new" / "table.csv", ["arm", "x", "y"], rows)
    with open(path, newline="") as file:
        header, *found = csv.reader(file)
    assert header == ["arm", "x", "y"]
    assert [[row[0], float(row[1]), row[2]] for row in found] == [["a, b", 0.1 + 0.2, ""], ['say "x"', 1e-300, "3"]]
    assert [file.name for file in path.parent.iterdir()] == ["table.csv"]


def test_a_bar_in_a_cell_does_not_end_it():
    table = markdown_table(["x", "y"], [["a|b", "1"]])
    assert table.splitlines() == ["| x | y |", "|:---|---:|", r"| a\|b | 1 |"]
