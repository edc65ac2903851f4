"""Word alignment: which words tell pictures apart, the loss by hand, and that it falls when features point at them."""

from math import exp, log, sqrt

import pytest
import torch

from phantrol.losses.word_alignment import WordAlignment, batch_words


class Seer(torch.nn.Module):
    """Gives the features it holds, and has the embeddings it holds."""

    def __init__(self, features, embeddings=None):
        super().__init__()
        torch.manual_seed(0)
        self.embeddings = torch.nn.Embedding(12, 16, _weight=embeddings)
        self.features = torch.nn.Parameter(features(self.embeddings.weight.detach()))
        self.config = type("Config", (), {"image_token_id": 0})

    def get_input_embeddings(self):
        return self.embeddings

    def forward(self, pixel_values, tile_order=None):
        return type("Output", (), {"image_features": self.features})


# two pictures of two features each; what is said about them: "5 7" and "6 8", and 9 about both
BATCH = {
    "input_ids": torch.tensor([[0, 0, 5, 7, 9], [0, 0, 6, 8, 9]]),
    "labels": torch.tensor([[-100, -100, 5, 7, 9], [-100, -100, 6, 8, 9]]),
    "pixel_values": torch.zeros(2, 3, 1, 1),
}


def test_words_that_every_picture_shares_are_left_out():
    words, pairs, has_word, has_pair = batch_words(BATCH["labels"], max_share=0.5)
    assert words.tolist() == [5, 6, 7, 8]
    assert has_word.tolist() == [[True, False, True, False], [False, True, False, True]]
    assert pairs.tolist() == [[5, 7], [6, 8]]
    assert has_pair.tolist() == [[True, False], [False, True]]
    everything, *_ = batch_words(BATCH["labels"], max_share=1.0)
    assert everything.tolist() == [5, 6, 7, 8, 9]


def test_a_pair_may_end_with_the_largest_word():
    _, pairs, _, has_pair = batch_words(torch.tensor([[-100, 5, 9], [-100, 6, 8]]), max_share=0.5)
    assert pairs.tolist() == [[5, 9], [6, 8]] and has_pair.tolist() == [[True, False], [False, True]]


def test_a_batch_without_pictures_has_its_loss_where_the_batch_is():
    texts = {"input_ids": torch.zeros(2, 5, dtype=torch.long, device="meta")}
    loss = WordAlignment()(None, texts, {"pictures": 0}).loss
    assert loss.requires_grad and loss.device.type == "meta"


def test_the_loss_by_hand():
    """Words on axes of their own, of unequal lengths; of the features one lies between the two words of a pair."""
    embeddings = torch.zeros(12, 16)
    for word, length in ((5, 3.0), (7, 1.0), (6, 2.0), (8, 0.5)):
        embeddings[word, word] = length
    features = torch.zeros(2, 2, 16)
    features[0, 0, 5], features[1, 0, 6], features[1, 1, 8] = 1, 1, 1
    features[0, 1, 5], features[0, 1, 7] = 0.6, 0.8
    loss = WordAlignment()(Seer(lambda _: features, embeddings), BATCH, {"pictures": 2}).loss.item()

    def bce(cosine, threshold, is_there):
        logit = 10 * (cosine - threshold)
        return log(1 + exp(-logit if is_there else logit))

    words = [(1, True), (0, False), (0.8, True), (0, False), (0, False), (1, True), (0, False), (1, True)]
    pairs = [(1.4 / sqrt(2), True), (0, False), (0, False), (1 / sqrt(2), True)]  # of the best feature for both words
    expected = sum(bce(c, 0.3, there) for c, there in words) / 8 + sum(bce(c, 0.5, there) for c, there in pairs) / 4
    assert loss == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("share, groups", [(1.0, 1), (0.5, 2), (0.4, 3), (0.3, 4)])
def test_in_fewer_rows_every_word_would_be_in_more_than_its_share(share, groups):
    assert WordAlignment(max_share=share).fewest_groups() == groups


def value(features):
    return WordAlignment()(Seer(features), BATCH, {"pictures": 2}).loss.item()


def test_features_that_name_what_is_shown_lose_least():
    unit = torch.nn.functional.normalize

    def pointing(*names):
        return lambda e: torch.stack(
            [torch.stack([sum(unit(e[i], dim=0) for i in name) for name in row]) for row in names]
        )

    right = value(pointing(((5, 7), (5, 7)), ((6, 8), (6, 8))))
    swapped = value(pointing(((6, 8), (6, 8)), ((5, 7), (5, 7))))
    blind = value(lambda e: torch.ones(2, 2, e.shape[1]))
    assert right < blind < swapped
    # both words are there, but on different features: the pair is missed
    apart = value(pointing(((5,), (7,)), ((6,), (8,))))
    assert right < apart - 1e-3


def test_only_features_learn_and_micro_batches_add_up():
    seer = Seer(lambda e: torch.randn(2, 2, e.shape[1], generator=torch.Generator().manual_seed(1)))
    loss = WordAlignment()(seer, BATCH, {"pictures": 2}).loss
    loss.backward()
    assert seer.embeddings.weight.grad is None
    assert seer.features.grad.abs().sum() > 0
    half = WordAlignment()(seer, BATCH, {"pictures": 4}).loss
    torch.testing.assert_close(half, loss / 2)


def test_a_batch_without_pictures_costs_nothing():
    words_alone = {name: value for name, value in BATCH.items() if name != "pixel_values"}
    words_alone |= {"sequence_ids": torch.zeros(6, dtype=torch.long), "rejected": torch.tensor([]), "chosen": []}
    assert WordAlignment().count(words_alone)["pictures"] == 0
    loss = WordAlignment()(Seer(lambda e: torch.ones(2, 2, e.shape[1])), words_alone, {"pictures": 0}).loss
    loss.backward()
    assert float(loss.detach()) == 0


def test_a_batch_without_telling_words_costs_nothing():
    same = {**BATCH, "labels": torch.tensor([[-100, -100, 5, 7, 9]] * 2)}
    loss = WordAlignment()(Seer(lambda e: torch.ones(2, 2, e.shape[1])), same, {"pictures": 2}).loss
    assert float(loss) == 0
    loss.backward()


def test_a_row_without_a_picture_takes_no_part():
    seer = Seer(lambda e: torch.randn(2, 2, e.shape[1], generator=torch.Generator().manual_seed(1)))
    alone = WordAlignment()(seer, BATCH, {"pictures": 2}).loss
    spoken = {"input_ids": [[1, 2, 5, 8, 9]], "labels": [[-100, -100, 5, 8, 9]]}
    among = BATCH | {name: torch.cat([BATCH[name], torch.tensor(rows)]) for name, rows in spoken.items()}
    assert torch.equal(WordAlignment()(seer, among, {"pictures": 2}).loss, alone)
