"""Memory does not grow with a file: to find and to read rows takes less than the 60 MB that they are."""

from __future__ import annotations

import json
import random
import subprocess
import sys

import pytest

NUM_ROWS, ROW_BYTES = 9000, 7000
FILE_MB = NUM_ROWS * ROW_BYTES / 1e6
# small files first, so that code is loaded; what getrusage tells would begin with the peak of the process before
READ = """
import json, sys
from pathlib import Path

from phantrol.data.sources.file import FileSource

def read(path):
    source = FileSource(path)
    for i in range(1500):
        (example,) = source[i * 7919 % len(source)]
        assert example.messages[-1].text == f"a{i * 7919 % len(source)}"
    return len(source)

def memory_mb():
    lines = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return {name: int(lines[name].split()[0]) / 1e3 for name in ("VmHWM", "VmRSS", "RssAnon")}

def grown(do):
    before = memory_mb()
    made, after = do(), memory_mb()
    return {"peak": after["VmHWM"] - before["VmRSS"], "own": after["RssAnon"] - before["RssAnon"]}, made

folder = Path(sys.argv[1])
kinds = [path.name for path in (folder / "large").iterdir()]
kinds.sort(key=["a.json", "a.parquet", "a_folder"].index)  # what is mapped comes last: its pages count as peak
for kind in kinds:
    read(folder / "small" / kind)
told = {kind: grown(lambda: read(folder / "large" / kind)) for kind in kinds}
print(json.dumps([told, grown((folder / "large" / "a.json").read_bytes)[0]]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells of the memory that is a process's own")
def test_memory_does_not_grow_with_the_file(tmp_path):
    datasets, parquet = pytest.importorskip("datasets"), pytest.importorskip("pyarrow.parquet")
    draw = random.Random(0)
    for size, num_rows, row_bytes in (("small", 1500, 20), ("large", NUM_ROWS, ROW_BYTES)):
        (folder := tmp_path / size).mkdir()
        more = [draw.randbytes(row_bytes // 2).hex() for _ in range(num_rows)]
        rows = [{"question": "What?", "answer": f"a{i}", "more": text} for i, text in enumerate(more)]
        (folder / "a.json").write_text(json.dumps(rows))
        table = datasets.table.InMemoryTable.from_pylist(rows)
        options = dict(use_dictionary=False, compression="none", write_batch_size=64)
        parquet.write_table(table.table, folder / "a.parquet", row_group_size=3000, **options)  # is written again
        datasets.Dataset(table).save_to_disk(folder / "a_folder")
        sizes = [sum(file.stat().st_size for file in folder.rglob(kind)) for kind in ("a.json", "a.parquet", "*.arrow")]
    assert min(sizes) > FILE_MB * 1e6
    done = subprocess.run([sys.executable, "-c", READ, tmp_path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    told, held = json.loads(done.stdout)
    assert {kind: num_rows for kind, (_, num_rows) in told.items()} == dict.fromkeys(told, NUM_ROWS) and len(told) == 3
    grown = {kind: mb for kind, (mb, _) in told.items()}
    assert all(mb["own"] < 0.5 * FILE_MB for mb in grown.values()), grown
    assert grown["a.json"]["peak"] < 0.5 * FILE_MB and grown["a.parquet"]["peak"] < 0.5 * FILE_MB, grown
    assert held["own"] > 0.9 * FILE_MB  # a file that is read whole would have been seen
