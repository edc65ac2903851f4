"""MMBench-CN: the questions of MMBench in Chinese."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from phantrol.evals.benchmarks.mmbench import MMBench


@dataclass(frozen=True)
class MMBenchCN(MMBench):
    """The table of the dev split, as mmbench_dev_cn_20231003.tsv or MMBench_DEV_CN.tsv."""

    tables: ClassVar[tuple[str, ...]] = ("mmbench_dev_cn*.tsv", "MMBench_DEV_CN*.tsv")


BENCHMARK = MMBenchCN
