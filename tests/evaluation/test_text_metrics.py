"""Text metrics against cases counted by hand, and against NLTK where it has the same definition."""

import json
import math
import random
import time

import pytest

from creativewritinggpt.data.names import proper_names
from creativewritinggpt.data.text import sentences
from creativewritinggpt.evaluation import metrics


def _w(text):
    return text.split()


def _random_texts(count=12, seed=0):
    generator = random.Random(seed)
    words = _w("the a sea ship captain laughed slept and then went home to")
    return [generator.choices(words, k=generator.randint(1, 40)) for _ in range(count)]


def test_distinct_and_rep_are_pooled_over_texts():
    texts = [_w("a b a b"), _w("a b c")]
    # Bigrams: ab ba ab | ab bc: three different of five.
    assert metrics.distinct_n(texts, 1) == pytest.approx(3 / 7)
    assert metrics.distinct_n(texts, 2) == pytest.approx(3 / 5)
    assert metrics.rep_n(texts, 2) == pytest.approx(40)
    # Trigrams: aba bab | abc: none repeats. 4-grams: abab.
    assert metrics.diversity(texts) == pytest.approx(3 / 5)
    assert metrics.distinct_n([["a"]], 2) is None


def test_seq_rep_is_a_mean_over_texts():
    texts = [_w("a b c d a b c d"), _w("a b c d e"), _w("a b")]
    # 4-grams of the first: abcd bcda cdab dabc abcd: one of five repeats; of the second none.
    assert metrics.seq_rep_n(texts, 4) == pytest.approx((1 / 5 + 0) / 2)
    assert metrics.seq_rep_n([["a"]], 4) is None


@pytest.mark.parametrize(
    ("text", "loops"),
    [
        ("x y a b c a b c", True),
        ("a b c a b c y", False),
        ("x y z a b a b", False),
        ("one two two", False),
        ("a b a b a b", False),
        ("a b a b a b a b", True),  # "a b a b" twice
        ("no no no no no no", True),  # "no no no" twice
        ("", False),
    ],
)
def test_a_loop_is_a_phrase_of_three_or_more_said_twice_at_the_end(text, loops):
    assert metrics.ends_in_loop(text.split()) is loops


def test_loop_rate_counts_texts():
    assert metrics.loop_rate([_w("a b c a b c"), _w("a b c")]) == 0.5
    assert metrics.loop_rate([]) is None


def test_self_bleu_of_two_equal_texts_is_one_and_of_strangers_is_low():
    assert metrics.self_bleu([_w("a b c d e")] * 2) == pytest.approx(1)
    # No word in common: NLTK's rule is 0.
    assert metrics.self_bleu([_w("a b c d"), _w("e f g h")]) == 0
    # Each has 3 of 4 words, 2 of 3 bigrams, 1 of 2 trigrams, and no 4-gram: 0.1 of 1.
    found = metrics.self_bleu([_w("a b c d"), _w("a b c e")])
    assert found == pytest.approx((3 / 4 * 2 / 3 * 1 / 2 * 0.1) ** 0.25)


@pytest.mark.parametrize("n", [2, 3, 4])
def test_self_bleu_is_that_of_nltk(n):
    bleu = pytest.importorskip("nltk.translate.bleu_score", reason="NLTK is not installed")
    texts = _random_texts()
    smooth = bleu.SmoothingFunction().method1
    expected = [
        bleu.sentence_bleu(
            texts[:i] + texts[i + 1 :], text, weights=(1 / n,) * n, smoothing_function=smooth
        )
        for i, text in enumerate(texts)
    ]
    assert metrics.self_bleu(texts, n) == pytest.approx(sum(expected) / len(texts), abs=1e-12)


def test_zipf_coefficient_of_a_power_law_is_its_exponent():
    texts = [[f"w{rank}"] * round(5040 / rank) for rank in range(1, 11)]
    assert metrics.zipf_coefficient(texts) == pytest.approx(1, abs=1e-3)
    assert metrics.zipf_coefficient([["a", "b"]]) == pytest.approx(0)
    # ln 4 over ln 2 for two types of 4 and 1.
    assert metrics.zipf_coefficient([list("aaaab")]) == pytest.approx(2)


def test_sentences_end_where_a_reader_would_say_so():
    text = "“Stop!” he said. Mr. Hill left. It was J. R. Then… “Go.” We went.\n\nChapter two"
    assert sentences(text) == [
        "“Stop!” he said.", "Mr. Hill left.", "It was J. R. Then…", "“Go.”", "We went.",
        "Chapter two",
    ]  # fmt: skip
    assert metrics.sentence_lengths("One two. Three, four five!") == [2, 3]
    assert sentences("灯が消えた。夜だ！") == ["灯が消えた。", "夜だ！"]
    assert sentences("") == sentences("…!") == []


def test_most_english_words_have_the_syllables_that_a_speaker_hears():
    heard = {
        1: "the laughed queen house whole smile rule eyes loves moved walked times clothes once",
        2: "captain table little quiet science million nation being going horses boxes needed "
        "lion poem chaos curious:3 before something evening careful lonely river watches ruin",
        3: "idea piano beautiful everything area video violin chocolate finally memory usual",
        4: "material february interesting continuous situation",
    }
    for count, words in heard.items():
        for word in words.split():
            name, _, other = word.partition(":")
            assert metrics.syllables(name) == int(other or count), name


def test_readability_formulas_by_hand():
    # 9 words of 9 syllables in 2 sentences; 31 letters.
    found = metrics.readability(["The cat sat on the mat. Three dogs barked."])
    assert found["flesch_reading_ease"] == pytest.approx(206.835 - 1.015 * 4.5 - 84.6)
    assert found["flesch_kincaid_grade"] == pytest.approx(0.39 * 4.5 + 11.8 - 15.59)
    assert found["automated_readability"] == pytest.approx(4.71 * 32 / 9 + 0.5 * 4.5 - 21.43)
    assert found["coleman_liau"] == pytest.approx(5.88 * 32 / 9 - 29.6 / 4.5 - 15.8)
    assert set(metrics.readability(["…"]).values()) == {None}


def test_mean_and_spread():
    assert metrics.mean_and_spread([2, 4]) == (3, pytest.approx(math.sqrt(2)))
    assert metrics.mean_and_spread([5]) == (5, 0)
    assert metrics.mean_and_spread([]) is None


def test_copied_share_counts_the_texts_ngrams_that_stand_in_the_prompt():
    assert metrics.copied_share("The old clock stopped.", "the OLD clock ran", 2) == 2 / 3
    assert metrics.copied_share("The old clock", "ran", 2) is None


def test_names_of_a_prompt_and_their_use():
    prompt = "[WP] When Anna meets the Duke of Kent, Paris burns. Nobody saw Anna’s face."
    assert proper_names(prompt) == {"anna", "duke", "kent", "paris"}
    assert metrics.names_used(prompt, "anna's horse; the duke rode.") == 0.5
    assert metrics.names_used("a grey morning", "Anna") is None
    found = metrics.prompt_use([(prompt, "Anna, Anna."), ("a b c", "a b")])
    assert found["prompt_names_used"] == 0.25
    assert found["copied_1gram"] == 1 and found["copied_2gram"] == 0.5


def test_a_long_run_of_signs_is_read_in_one_go():
    assert sentences("It went" + "!" * 50_000 + "? She slept.")[1:] == ["She slept."]
    started = time.process_time()
    sentences("!" * 50_000)
    assert time.process_time() - started < 2  # quadratic: half a minute


@pytest.mark.parametrize("text", ["", "word", "x" * 5000, "灯が消えた", "\n\n\n", "🚀 🚀"])
def test_nothing_breaks_on_odd_texts(text):
    words = metrics.words_of(text)
    for function in (metrics.seq_rep_n, metrics.self_bleu, metrics.zipf_coefficient,
                     metrics.diversity, metrics.loop_rate):  # fmt: skip
        json.dumps(function([words, words]), allow_nan=False)  # finite numbers, or none
    readability = metrics.readability([text])
    assert json.loads(json.dumps(readability, allow_nan=False)) == readability
    used = metrics.prompt_use([(text, text)])
    assert json.loads(json.dumps(used, allow_nan=False)) == used


def test_texts_without_spaces_have_figures_of_their_letters():
    story = "灯が消えた。船長は笑った。誰も答えなかった。"
    words = metrics.words_of(story)
    assert words == list("灯が消えた船長は笑った誰も答えなかった")
    assert metrics.sentence_lengths(story) == [5, 6, 8]
    assert metrics.distinct_n([words], 1) == len(set(words)) / len(words)
    assert metrics.copied_share("船長は笑った", story, 3) == 4 / 17
    # Formulas of readability are made for alphabets.
    assert set(metrics.readability([story]).values()) == {None}
    assert metrics.readability(["The lamp 灯 went out."])["flesch_reading_ease"] is not None
    assert metrics.names_used(story, story) is None
    assert metrics.words_of("ที่นี่ lamp") == ["ท", "น", "lamp"]
