"""Hard answers: what each of the readers makes of them. None is never right."""

from __future__ import annotations

import pytest

from phantrol.evals.letters import chosen_option, leading_letter, leading_yes_or_no, refuses, said_yes_or_no
from phantrol.evals.metrics import normalise, number, only_number, plain, relaxed_accuracy, rouge_l, rouge_n

CHOICES = ("red", "dark red", "blue", "a dog")
LONG = "The picture shows a car. Since it is neither of the others, A is wrong, and the answer is B because it is dark."


@pytest.mark.parametrize(
    ("text", "chosen", "leading"),
    [
        ("B", "B", "B"),
        ("b", "B", "B"),
        ("B.", "B", "B"),
        ("(b)", "B", "B"),
        ("(B)", "B", "B"),
        ("**B**", "B", "B"),
        ("B) dark red", "B", "B"),
        ("B: dark red", "B", "B"),
        ("B dark red", "B", "B"),
        ("Option B", "B", "B"),
        ("Answer: b", "B", "B"),
        ("The answer is B", "B", "B"),
        ("The correct option is (C).", "C", "C"),
        ("I think it is B", "B", None),
        (LONG, "B", None),
        ("The answer is not B, but C", "C", None),
        ("The answer is not B", None, None),
        ("Both", None, None),
        ("Both A and B", None, None),
        ("A or B", None, None),
        ("A, B", None, None),
        ("A or B.", None, None),
        ("Both A and B.", None, None),
        ("The answer is A or B", None, None),
        ("(A) or (B)", None, None),
        ("Of A or B, the answer is B", "B", None),
        ("The answer is C, not A or B.", "C", "C"),
        ("The answer is B, A is wrong", "B", None),
        ("A\nB", None, "A"),
        ("", None, None),
        ("I'm sorry, I cannot tell.", None, None),
        ("I", None, None),
        ("E", None, None),
        ("Based on A's shape", None, None),
        ("A", "A", "A"),
        ("a", "A", "A"),
        ("A.", "A", "A"),
        ("A is correct", "A", "A"),
        ("B is wrong", None, None),
        ("A dog", "D", None),  # the article
        ("a dog", "D", None),
        ("the answer is a dog", "D", None),
        ("dark red", "B", None),
        ("It is dark red.", "B", None),  # "red" occurs within "dark red" alone
        ("red or blue", None, None),
        ("Redder", None, None),
        ("（B）", "B", "B"),
        ("Ｂ．", "B", "B"),
        ("B。", "B", "B"),
        ("【B】", "B", "B"),
        ("答案：B。", "B", "B"),
        ("答案是B，因为", "B", "B"),
        ("选B", "B", "B"),
        ("我选择B。", "B", "B"),
        ("the answer is b because of the sky", "B", None),
    ],
)
def test_options(text, chosen, leading):
    assert chosen_option(text, CHOICES) == chosen
    assert leading_letter(text, len(CHOICES)) == leading


@pytest.mark.parametrize(
    ("text", "choices", "chosen"),
    [
        ("vitamin D", ("vitamin C", "vitamin D"), "B"),
        ("It is vitamin D.", ("vitamin C", "vitamin D"), "B"),
        ("B, vitamin D", ("vitamin C", "vitamin D"), "B"),
        ("The answer is C major", ("D minor", "C major", "F major"), "B"),
        ("Point C is the highest.", ("Point C", "Point B", "Point A"), "A"),
        ("C", ("B", "C", "A"), "C"),  # options that are letters themselves: a letter is an option's
        ("-1", ("1", "2"), None),
        ("-1", ("1", "-1"), "B"),
        ("1.5", ("1", "2"), None),
        ("It is 1.", ("1", "2"), "A"),
        ("10", ("1", "0"), None),
        ("dark-red", ("red", "blue"), None),
        ("An A-shaped roof", ("", "", ""), None),
        ("no", ("Yes", "No"), "B"),
        ("print(1)\nprint(2)", ("print(1)", "print(1)\nprint(2)"), "B"),
    ],
)
def test_options_with_texts_of_their_own(text, choices, chosen):
    assert chosen_option(text, choices) == chosen


@pytest.mark.parametrize(
    ("text", "choices", "chosen"),
    [
        ("No idea", ("Yes", "No"), None),
        ("No way to tell.", ("Yes", "No"), None),
        ("I am unable to answer, there is no information.", ("Yes", "No"), None),
        ("I cannot tell whether it is red", ("red", "blue"), None),
        ("I’m not sure, I can’t see a dog", ("dog", "cat"), None),
        ("It can't really be determined if it is red", ("red", "blue"), None),
        ("No, there is no way to cross.", ("Yes", "No"), "B"),
        ("It is red. The rest cannot be identified.", ("red", "blue"), "A"),
        ("Since it cannot fly, it is a penguin", ("eagle", "penguin"), "B"),
        ("It is a penguin, which is unable to fly", ("eagle", "penguin"), "B"),
        ("It cannot be determined.", ("red", "Cannot be determined"), "B"),
        ("unclear", ("red", "Unclear"), "B"),
        ("Not sure", ("Sure", "Not sure"), "B"),
        ("It is not red", ("red", "blue"), None),
        ("It isn't a red one", ("red", "blue"), None),
        ("It cannot be red", ("red", "blue"), None),
        ("All except the red one", ("red", "blue"), None),
        ("It is not red or blue", ("red", "blue"), None),
        ("It is not red", ("red", "not red"), "B"),
        ("不是红色", ("红色", "蓝色"), None),
        ("Option B is wrong.", ("", "", ""), None),
        ("B is incorrect, it must be A", ("", "", ""), "A"),
        ("(B) isn't the right answer", ("", "", ""), None),
        ("B is not a mammal", ("", "", ""), "B"),
        ("The answer isn’t B", ("", "", ""), None),
        ("the answer cannot be B", ("", "", ""), None),
        ("It is not option B", ("", "", ""), None),
        ("It is not **B**", ("", "", ""), None),
        ("Not (B). It is (C)", ("", "", ""), "C"),
        ("It is not red\nB", ("red", "blue"), "B"),
        ("It's NOT the letter B, but C", ("", "", ""), "C"),
        ("It isn't A or B", ("", "", ""), None),
        ("All except B", ("", "", ""), None),
        ("The answer is neither A nor B.", ("", "", ""), None),
        ("not A nor B", ("", "", ""), None),
        ("Neither option A nor option B, so C", ("", "", ""), "C"),
        ("答案不是B", ("", "", ""), None),
        ("不选B，选C", ("", "", ""), "C"),
    ],
)
def test_refused_and_denied_options_are_not_chosen(text, choices, chosen):
    assert chosen_option(text, choices) == chosen


@pytest.mark.parametrize(
    ("text", "chosen"),
    [
        # a full stop at the end of a sentence marks no letter
        ("B, unlike A.", None),
        ("I would choose B over A.", None),
        ("I would choose B over A. It is dark.", None),
        ("It must be B since it is darker than C.", None),
        ("A rather than B.", None),
        ("I choose B.", "B"),
        ("A is too dark. B.", "B"),
        ("It is (B), darker than C.", "B"),
        # what the answer begins with holds
        ("A. The sky is clear. Option B would need clouds.", "A"),
        ("(A) because choice B is too small", "A"),
        ("A: see option C", "A"),
        ("A。因为选项B太小", "A"),
        ("b. Option A is too small", "B"),
        ("B. Washington D.C. is option A", "B"),
        ("B\n\nExplanation: The picture shows a bus. Option A is a car.", "B"),
        ("**A**\n\nExplanation: B is blue", "A"),
        ("The answer is A. Option B is too small.", "A"),
        # unless it does not
        ("A. B. C.", None),
        ("A: bright, B: dark", None),
        ("A. Bright B. Dark", None),
        ("A. bright\nB. dark\nOption B", "B"),
        ("a. bright b. dark", None),
        ("A) is wrong, B is right", "B"),
        ("A. No, B.", None),
        ("A: The answer is option C", "C"),
        ("A\nB\nC\nThe answer is C", "C"),
        ("A cat.", None),
    ],
)
def test_which_of_several_letters_is_chosen(text, chosen):
    assert chosen_option(text, ("",) * 4) == chosen


def test_options_that_there_are():
    assert chosen_option("D", ("yes", "no")) is None and leading_letter("D", 2) is None
    assert chosen_option("D", ("", "", "", "")) == "D"  # options without texts
    assert chosen_option("no", ("yes", "no")) == "B"
    assert chosen_option("红色。", ("红色", "蓝色")) == "A"
    assert chosen_option("", ("", "")) is None


@pytest.mark.parametrize(
    ("text", "said", "leading"),
    [
        ("Yes", "yes", "yes"),
        ("yes.", "yes", "yes"),
        ("YES。", "yes", "yes"),
        ("“Yes”", "yes", "yes"),
        ("Yes, there is no doubt", "yes", "yes"),
        ("no", "no", "no"),
        ("No, there isn't", "no", "no"),
        ("No，没有", "no", "no"),
        ("There isn't any", "no", None),
        ("It is not there", "no", None),
        ("I would say yes", "yes", None),
        ("I say no, not yes", None, None),
        ("yes or no", None, None),
        ("Yes/No", None, None),
        ("It may be yes or no", None, None),
        ("", None, None),
        ("I have no idea", None, None),
        ("No idea", None, None),
        ("Not sure", None, None),
        ("I'm sorry, I can't tell, yes?", None, None),
        ("There is a dog", None, None),
        ("nothing", None, None),
        ("Noodles", None, None),
        ("Yesterday", None, None),
        ("maybe", None, None),
    ],
)
def test_yes_or_no(text, said, leading):
    assert said_yes_or_no(text) == said
    assert leading_yes_or_no(text) == leading


@pytest.mark.parametrize("text", ["", "  ", "I cannot see it.", "I'm sorry", "It is impossible to say", "Unknown"])
def test_refusals(text):
    assert refuses(text)


@pytest.mark.parametrize("text", ["Yes", "There is a dog", "cannon", "no", "a note"])
def test_no_refusals(text):
    assert not refuses(text)


@pytest.mark.parametrize(
    ("text", "answer", "score"),
    [
        ("1,234", "1234", 1),
        ("１，２３４", "1234", 1),
        ("12%", "12", 1),
        ("12％", "12", 1),
        ("$5", "5", 1),
        ("￥5", "5", 1),
        ("five", "5", 1),
        ("5。", "5", 1),
        ("about 5.2", "5", 1),
        ("5.3", "5", 0),
        ("", "5", 0),
        ("I cannot say", "5", 0),
        ("between 4 and 5", "5", 0),
        ("1.234", "1234", 0),
        ("Norway。", "Norway", 1),
        ("norway", "Norway", 1),
        ("Sweden", "Norway", 0),
        ("3 cm²", "3", 1),  # a square is no number
    ],
)
def test_relaxed_numbers(text, answer, score):
    assert relaxed_accuracy(text, answer) == score


def test_numbers_of_other_typography():
    assert number("５", "5") == 1 and number("五", "5") == 0
    assert only_number("$5") == 5 and only_number("12 ％") == 12 and only_number("five") == 5
    assert only_number("5 of 6") is None and only_number("") is None
    assert only_number("9" * 300) == 1e300 and only_number("9" * 400) is None  # more than a float holds
    assert relaxed_accuracy("5", "9" * 400) == relaxed_accuracy("9" * 400, "5") == number("9" * 400, "5") == 0
    assert plain("（Ａ）：「x」") == "(A):「x」" and plain("m²") == "m²"
    assert normalise("“The dog”。") == "dog"


def test_rouge():
    assert rouge_n("the cat sat", "the cat sat") == rouge_l("the cat sat", "the cat sat") == 1
    assert rouge_n("cat the sat", "the cat sat") == 1 and rouge_l("cat the sat", "the cat sat") == pytest.approx(2 / 3)
    assert rouge_n("the cat", "the cat sat", 2) == pytest.approx(2 / 3)
    assert rouge_n("the the the", "the cat") == pytest.approx(2 / 3)  # a word that comes thrice counts once
    assert rouge_n("", "the cat") == rouge_l("", "the cat") == rouge_l("dog", "the cat") == 0
    assert rouge_n("The cat", "the cat") == 0.5  # case matters
    # sentences are matched each for itself: in one row "b a" would share but one word with "a b"
    assert rouge_l("b. a", "a. b") == 1 and rouge_l("b a", "a b") == 0.5
