"""Voice: distances by their definition, and what must hold for texts whose author is known."""

import math
import random
from fractions import Fraction

import numpy as np
import pytest
from voices import RARE, WORDS, chapters, samples_of, style, text_of

from creativewritinggpt.data.document import Document
from creativewritinggpt.errors import InputError
from creativewritinggpt.evaluation import imposters
from creativewritinggpt.evaluation.stylometry import (
    Reference,
    Sample,
    Writing,
    burrows_delta,
    cosine_delta,
    make_reference,
)
from creativewritinggpt.evaluation.voice import VoiceTexts, measure

# The example of stylo's manual: frequencies of five words in two texts of Juvenal, three of
# Tibullus. What its definitions give for them was computed once by hand, as below.
TABLE = np.array([
    [3.939, 0.635, 1.143, 0.762, 0.423],
    [3.733, 0.822, 1.066, 0.933, 0.511],
    [2.835, 1.302, 0.804, 0.862, 0.881],
    [2.911, 0.436, 0.400, 0.946, 0.618],
    [1.893, 1.082, 0.991, 0.879, 1.487],
])  # fmt: skip
COSINE_0_1, COSINE_0_4 = 0.757705224944334, 1.567305989655864
BURROWS_0_1, BURROWS_2_4 = 0.719945911942934, 0.813629877268847


def _exact_z():
    """The z-scores with the deviation of the sample, in fractions up to the root."""
    columns = []
    for column in TABLE.T:
        values = [Fraction(str(value)) for value in column]
        mean = sum(values) / len(values)
        spread = math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1))
        columns.append([float(value - mean) / spread for value in values])
    return np.array(columns).T


OTHERS = {f"other {n}": chapters(100 + n, 4) for n in range(5)}
TEXTS = VoiceTexts("author", chapters(1, 6), OTHERS, chapters(1, 6, first=50))
SIZE = {"words": 3000, "resamples": 200}


@pytest.fixture(scope="module")
def found():
    base, tuned = style(77), style(1)
    generated = {
        "base": samples_of(base, 40),
        "tuned": samples_of(tuned, 40),
        "mixed": [*samples_of(base, 40)[::2], *samples_of(tuned, 40)[1::2]],
    }
    return measure(TEXTS, generated, **SIZE)


def test_cosine_delta_is_that_of_stylo():
    z = _exact_z()
    dot = math.fsum(a * b for a, b in zip(z[0], z[3], strict=True))
    lengths = [math.sqrt(math.fsum(a * a for a in row)) for row in (z[0], z[3])]
    assert cosine_delta(z[0], z[3]) == pytest.approx(1 - dot / math.prod(lengths), abs=1e-12)
    assert cosine_delta(z[0], z[1]) == pytest.approx(COSINE_0_1, abs=1e-9)
    assert cosine_delta(z[0], z[4]) == pytest.approx(COSINE_0_4, abs=1e-9)


def test_burrows_delta_is_that_of_stylo():
    z = _exact_z()
    assert burrows_delta(z[0], z[1]) == pytest.approx(BURROWS_0_1, abs=1e-9)
    assert burrows_delta(z[2], z[4]) == pytest.approx(BURROWS_2_4, abs=1e-9)


def test_z_scores_of_a_reference():
    reference = Reference(tuple("abcde"), TABLE.mean(0), TABLE.std(0, ddof=1))
    assert reference.z(TABLE) == pytest.approx(_exact_z(), abs=1e-12)


def test_a_text_without_direction_is_at_distance_one():
    assert cosine_delta(np.zeros(3), np.ones(3)) == 1.0


def test_the_authors_own_is_one_another_is_zero_and_a_mixture_between(found):
    voice = {label: entry["value"] for label, entry in found["voice"].items()}
    assert voice["tuned"] == pytest.approx(1, abs=0.15)
    assert voice["base"] == pytest.approx(0, abs=0.3)
    assert voice["base"] + 0.15 < voice["mixed"] < voice["tuned"]
    assert found["told_apart"]
    assert found["distances"]["author"]["value"] < found["distances"]["others"]["value"]


def test_the_difference_of_base_and_tuned_has_an_interval_beyond_zero(found):
    change = found["differences"]["tuned"]["voice"]
    low, high = change["ci95"]
    assert 0 < low < change["value"] < high
    assert "voice(base)" in found["sentence"]
    assert "pools of 3,000 words" in found["sentence"]


def test_half_and_twice_as_many_words_and_no_pronouns_agree(found):
    for check in found["checks"].values():
        assert check["told_apart"]
        assert check["voice"]["base"] < check["voice"]["tuned"]


def test_imposters_know_the_author(found):
    known = found["imposters"]
    assert known["auc"] > 0.95
    assert known["c_at_1"] > 0.9
    assert known["models"]["tuned"]["verdict"] == "author"
    assert known["models"]["base"]["verdict"] == "not"


def test_two_models_of_one_style_don_t_differ_beyond_chance():
    beyond = 0
    for seed in range(6):
        own = style(77)
        generated = {"a": samples_of(own, 40, seed=seed), "b": samples_of(own, 40, seed=seed + 50)}
        low, high = measure(TEXTS, generated, **SIZE)["differences"]["b"]["nearer"]["ci95"]
        beyond += not low < 0 < high
    assert beyond <= 1


def test_a_further_model_moves_no_other_figure(found):
    alone = measure(TEXTS, {"base": samples_of(style(77), 40)}, **SIZE)
    assert alone["distances"]["author"] == found["distances"]["author"]
    assert alone["distances"]["others"] == found["distances"]["others"]
    assert alone["voice"]["base"] == found["voice"]["base"]
    assert alone["imposters"]["models"]["base"] == found["imposters"]["models"]["base"]


def test_shuffled_words_keep_the_voice(found):
    shuffled = []
    for sample in samples_of(style(1), 40):
        words = sample.text.split()
        random.Random(sample.prompt).shuffle(words)
        shuffled.append(Sample(sample.prompt, " ".join(words)))
    voice = measure(TEXTS, {"x": shuffled}, **SIZE)["voice"]["x"]["value"]
    assert voice == pytest.approx(found["voice"]["tuned"]["value"], abs=0.1)


def test_order_of_texts_and_shape_of_quotes_change_nothing():
    samples = [
        Sample(s.prompt, s.text.replace("It the", "“It's the").replace(" and ", " don't "))
        for s in samples_of(style(1), 40)
    ]
    curly = [Sample(s.prompt, s.text.replace("'", "’").replace("“", '"')) for s in samples]
    backwards = VoiceTexts(
        "author", TEXTS.held_out[::-1],
        {name: of[::-1] for name, of in reversed(OTHERS.items())}, TEXTS.training[::-1],
    )  # fmt: skip
    first = measure(TEXTS, {"x": samples}, **SIZE)
    second = measure(backwards, {"x": curly[::-1]}, **SIZE)
    assert second["distances"] == first["distances"]
    assert second["imposters"] == first["imposters"]


def test_without_a_model_authors_are_told_apart():
    found = measure(VoiceTexts("author", TEXTS.held_out, OTHERS), words=2000, resamples=200)
    assert found["told_apart"]
    assert found["voice"] is None
    assert found["sentence"] == "author can be told from the others (pools of 2,000 words)"
    with_model = measure(
        VoiceTexts("author", TEXTS.held_out, OTHERS), {"x": samples_of(style(1), 40)},
        words=2000, resamples=100,
    )  # fmt: skip
    assert any("by halves" in warning for warning in with_model["warnings"])
    assert with_model["distances"]["author"]["value"] == found["distances"]["author"]["value"]


def test_authors_of_one_style_can_t_be_told_apart():
    twins = {f"twin {n}": chapters(1, 4, first=1000 * (n + 1)) for n in range(4)}
    found = measure(
        VoiceTexts("author", TEXTS.held_out, twins, TEXTS.training),
        {"x": samples_of(style(1), 40)}, **SIZE,
    )  # fmt: skip
    assert not found["told_apart"]
    assert found["voice"] is None
    assert found["imposters"]["models"]["x"]["verdict"] is None
    assert "can't be told from the others" in found["sentence"]


def test_with_two_other_authors_there_are_distances_and_no_scale():
    two = dict(list(OTHERS.items())[:2])
    found = measure(
        VoiceTexts("author", TEXTS.held_out, two, TEXTS.training),
        {"x": samples_of(style(1), 40)}, **SIZE,
    )  # fmt: skip
    assert found["voice"] is None
    assert found["distances"]["x"]["value"] < found["distances"]["others"]["value"]
    assert any("a scale needs 3" in warning for warning in found["warnings"])


def test_short_others_are_left_out_and_the_shortest_sets_the_length():
    others = OTHERS | {"note": chapters(200, 1)}
    found = measure(VoiceTexts("author", TEXTS.held_out, others, TEXTS.training), **SIZE)
    assert found["others_left_out"] == ["note"]
    found = measure(TEXTS, {"x": samples_of(style(1), 18)}, **SIZE)
    assert 2000 <= found["words"] < 3000


def test_texts_that_loop_are_told_apart():
    samples = samples_of(style(1), 60)
    looping = [Sample(s.prompt, "the sea the sea the sea. " * 40, loops=True) for s in samples[:9]]
    found = measure(TEXTS, {"x": looping + samples[9:]}, **SIZE)
    row = found["without_loops"]["x"]
    assert (row["loops"], row["texts"]) == (9, 60)
    assert row["voice"] > found["voice"]["x"]["value"] + 0.05


@pytest.mark.parametrize(
    ("texts", "what"),
    [
        (VoiceTexts("a", [], OTHERS), "no text"),
        (VoiceTexts("a", [Document("a", "a", " \n\x00")], OTHERS), "no text"),
        (VoiceTexts("a", chapters(1, 1), OTHERS), "no voice can be told"),
        (VoiceTexts("a", chapters(1, 6), {}), "nobody to tell a from"),
        (VoiceTexts("a", chapters(1, 6), {"b": chapters(1, 6)}), "same text"),
        (VoiceTexts("a", chapters(1, 6), {"b": chapters(3, 1)}), "no other author"),
    ],
)
def test_too_little_and_one_text_twice_are_refused(texts, what):
    with pytest.raises(InputError, match=what):
        measure(texts, **SIZE)


def test_texts_of_different_languages_are_refused():
    def foreign(seed):
        text = text_of(style(seed), 900, seed)
        return Document("b", "b", text.translate(str.maketrans("aeiou", "эюяый")))

    others = {f"o{n}": [foreign(n * 10 + i) for i in range(4)] for n in range(4)}
    with pytest.raises(InputError, match="frequent words in common"):
        measure(VoiceTexts("a", TEXTS.held_out, others, TEXTS.training), **SIZE)


def test_a_language_without_spaces_is_measured():
    def chapter(seed):
        text = text_of(style(seed), 900, (seed, 1))
        place = {word: chr(0x4E00 + i) for i, word in enumerate([*WORDS, *RARE, "It"])}
        return "".join(place.get(w.strip("."), "") + ("。" if "." in w else "")
                       for w in text.split())  # fmt: skip

    def several(seed, count):
        return [Document("x", "x", chapter(seed) + chapter(seed)[: 50 * i]) for i in range(count)]

    others = {f"o{n}": several(100 + n, 3) for n in range(4)}
    found = measure(VoiceTexts("a", several(1, 6), others), words=2000, resamples=50)
    assert found["distances"]["author"]["value"] < found["distances"]["others"]["value"]


def test_names_numbers_and_favoured_words_are_not_counted():
    text = "Then she met Rosalind at noon. He told Rosalind that 1889 was the year of the gorse. "
    human = {}
    for number, name in enumerate("ab"):
        written = Document(name, name, text * 60 + text_of(style(number), 900, number))
        human[name] = Writing.of_documents([written])
    reference = make_reference(human, 1000, 100, {"rosalind", "gorse"}, 0)
    assert {"the", "then", "that"} <= set(reference.words)
    assert not {"rosalind", "gorse", "1889"} & set(reference.words)


def test_few_chapters_are_said_and_distances_to_the_others_are_a_check():
    texts = VoiceTexts("author", TEXTS.held_out[:1], OTHERS, TEXTS.training)
    long = VoiceTexts("author", chapters(1, 1, words=3500), OTHERS, TEXTS.training)
    with pytest.raises(InputError, match="no voice can be told"):
        measure(texts, **SIZE)
    found = measure(long, {"x": samples_of(style(1), 40)}, **SIZE)
    assert any(warning.startswith("1 chapter of the author") for warning in found["warnings"])
    assert found["checks"]["to the other chapters"]["voice"]["x"] == pytest.approx(1, abs=0.2)


def test_half_samples_are_of_chapters_and_deviations_are_those_of_counting_at_least():
    human = {name: Writing.of_documents(of) for name, of in OTHERS.items()}
    reference = make_reference(human, 3000, 40, set(), 0)
    floor = np.sqrt(reference.mean * (1 - reference.mean) / 3000)
    assert (reference.spread >= floor).all()


def test_scores_of_imposters_by_hand():
    generator = np.random.default_rng(0)
    z = generator.normal(size=40)
    same, far = z + 0.1 * generator.normal(size=(1, 40)), -z + generator.normal(size=(4, 40))
    assert imposters.score(z, same, far, generator) == 1.0
    assert imposters.score(z, far, same, generator) == 0.0
    assert imposters.score(z, same, same, generator) == 0.5


def test_c_at_1_auc_and_grey_zone_by_hand():
    yes, no = [0.9, 0.8, 0.5], [0.1, 0.2, 0.55]
    assert imposters.area_under_curve(yes, no) == pytest.approx(8 / 9)
    # Two of three right on either side, the rest open: 2/3 + 1/3 × 2/3.
    assert imposters.c_at_1(yes, no, (0.4, 0.6)) == pytest.approx(2 / 3 + 1 / 3 * 2 / 3)
    # All answered, one of six wrong on either side of a bound of 0.52.
    assert imposters.c_at_1(yes, no, (0.52, 0.52)) == pytest.approx(2 / 3)
    low, high = imposters.grey_zone(yes, no)
    assert 0.2 < low <= 0.5
    assert 0.55 <= high < 0.8


def test_imposters_need_two_texts_and_two_others():
    z = np.ones((2, 5))
    assert imposters.verify({"a": z, "b": z}, "a", {}) is None
    assert imposters.verify({"a": z[:1], "b": z, "c": z}, "a", {}) is None
