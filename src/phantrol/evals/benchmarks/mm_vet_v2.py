"""MM-Vet v2: MM-Vet with sequences of pictures and text in turns; graded from 0 to 1 by a judge.

Yu et al., 2024: mm-vet-v2.json beside a folder of pictures, images/.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from phantrol.evals.benchmarks.mm_vet import MMVet
from phantrol.evals.published import PublishedRow, join_pictures
from phantrol.evals.reading import Record


@dataclass(frozen=True)
class MMVetV2(MMVet):
    """In a question, the name of a picture stands between <IMG>s where the picture belongs. With protocol "paper" all
    pictures of a question are put side by side into one, before the text, as the released evaluation shows them.
    """

    folders: ClassVar[tuple[str, ...]] = ("mm-vet-v2", "mmvetv2", "mmvet-v2")
    released_name: ClassVar[str] = "mm-vet-v2"
    table: ClassVar[str] = "mm-vet-v2.json"

    def question(self, name: str, entry: Record, pictures: Path) -> PublishedRow:
        parts: list[dict[str, Any]] = []
        for piece in (piece.strip() for piece in entry["question"].split("<IMG>")):
            if piece.lower().endswith((".jpg", ".jpeg", ".png")):
                parts.append({"type": "image", "image": pictures / piece})
            elif piece:
                parts.append({"type": "text", "text": piece})
        if self.protocol == "paper":
            words = "\n".join(part["text"] for part in parts if part["type"] == "text")
            parts = [part for part in parts if part["type"] == "image"] + [{"type": "text", "text": words}]
        asked = "".join(part.get("text", "<image>") for part in parts)
        facts = {"capability": sorted(entry["capability"]), "question": asked}
        return PublishedRow(name, "open", [{"role": "user", "content": parts}], entry["answer"], facts=facts)

    def finish(self, row: PublishedRow) -> PublishedRow:
        return join_pictures(row) if self.protocol == "paper" else row


BENCHMARK = MMVetV2
