"""The same pictures and texts whoever draws them: this process, or any number of workers."""

from __future__ import annotations

import hashlib

import pytest
from torch.utils.data import DataLoader, Dataset

from phantrol.data.sources.primer import PrimerSource

GROUPS = 36


class Digests(Dataset):
    """The digest of each group of a source: its texts and its pixels."""

    def __init__(self, source: PrimerSource):
        self.source = source

    def __len__(self) -> int:
        return GROUPS

    def __getitem__(self, index: int) -> str:
        digest = hashlib.sha256()
        for example in self.source[index]:
            said = (example.id, *(m.text for m in example.messages), *(r.text for r in example.rejected))
            digest.update("\0".join(said).encode())
            for picture in example.messages[0].pictures:
                digest.update(picture.tobytes())
        return digest.hexdigest()


@pytest.mark.parametrize("split", ["train", "test_style", "test_comp"])
def test_any_number_of_workers_draws_the_same(split):
    digests = Digests(PrimerSource(split, size_px=224, questions_per_picture=3))
    alone = [digests[i] for i in range(GROUPS)]
    assert len(set(alone)) == GROUPS
    for workers in (1, 2):
        loader = DataLoader(digests, batch_size=5, num_workers=workers, collate_fn=list)
        assert [digest for batch in loader for digest in batch] == alone


def test_the_check_would_see_another_picture():
    """Negative control: one picture further on, each is another."""
    one, other = (Digests(PrimerSource(size_px=224, start=start)) for start in (0, 1))
    assert all(one[i] != other[i] for i in range(8))
