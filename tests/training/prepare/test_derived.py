"""Data sets that are made from others or from a package: what is in them, and that no part alone tells the answer."""

import io
from collections import Counter, defaultdict

import numpy as np
import pytest
import soundfile
from datasets import ClassLabel, load_from_disk
from messages import says

from mm_hf.prepare import (
    basic_motions,
    caption_steps,
    clothing_reviews,
    emoji_records,
    movielens,
    moving_shapes,
    smart_home,
    spoken_numbers,
)
from mm_hf.prepare.common import PreparationError, cut_at_random


def best_guess(keys: list, answers: list) -> float:
    """Accuracy of whoever knows these keys alone, and all rows."""
    by = defaultdict(Counter)
    for key, answer in zip(keys, answers):
        by[key][answer] += 1
    return sum(max(counts.values()) for counts in by.values()) / len(answers)


@pytest.fixture(scope="module")
def numbers(fsdd_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("derived") / "spoken_numbers"
    spoken_numbers.main([str(fsdd_folder), str(folder)])
    return load_from_disk(str(folder))


def test_numbers_are_joined_from_recordings_of_one_part_and_speaker(numbers, fsdd):
    words = dict(zip("0123456789", ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")))
    lengths = defaultdict(set)
    for part, rows in fsdd.items():
        for row in rows:
            samples, rate = soundfile.read(io.BytesIO(row["audio"]["bytes"]), dtype="int16")
            lengths[part, row["speaker"], str(row["digit"])].add(len(samples))
    for part, rows in numbers.items():
        used = Counter()
        for row in rows:
            assert row["text"] == " ".join(words[digit] for digit in row["number"])
            assert 2 <= row["digits"] == len(row["number"]) <= 5
            samples, rate = soundfile.read(io.BytesIO(row["audio"]["bytes"]))
            own = [lengths[part, row["speaker"], digit] for digit in row["number"]]
            pause = (len(row["number"]) - 1) * rate
            assert sum(map(min, own)) + 0.05 * pause - 5 <= len(samples) <= sum(map(max, own)) + 0.2 * pause + 5
            used.update((row["speaker"], digit) for digit in row["number"])
        rounds = spoken_numbers.ROUNDS.get(part, 1)
        most = Counter((row["speaker"], str(row["digit"])) for row in fsdd[part])
        assert all(used[key] <= rounds * count for key, count in most.items())
        assert sum(used.values()) > 0.98 * rounds * sum(most.values())


@pytest.fixture(scope="module")
def home(fsdd_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("derived") / "smart_home"
    smart_home.main([str(fsdd_folder), str(folder)])
    return load_from_disk(str(folder))


def test_the_heating_does_what_the_rules_say_and_neither_voice_nor_state_tells(home, fsdd):
    names = home["train"].features["action"].names
    for part, rows in home.items():
        columns = rows.remove_columns("audio")[:]
        states = list(zip(columns["level"], columns["mode"], columns["window"]))
        actions = [names[number] for number in columns["action"]]
        for said, state, action in zip(columns["said"], states, actions):
            assert smart_home.action_of(said, dict(zip(("level", "mode", "window"), state))) == action
        counts = Counter(actions)
        assert max(counts.values()) - min(counts.values()) <= 2
        assert best_guess(columns["said"], actions) < 0.35
        if part == "train":
            assert best_guess(states, actions) < 0.7
        recordings = {sound["bytes"] for sound in fsdd[part]["audio"]}
        assert {sound["bytes"] for sound in rows["audio"]} == recordings


def test_columns_that_say_nothing_are_added_when_asked_for(home, fsdd_folder, tmp_path, capsys):
    smart_home.main([str(fsdd_folder), str(tmp_path / "home"), "--random_columns", "3"])
    noisy = load_from_disk(str(tmp_path / "home"))
    names = ["random_1", "random_2", "random_3"]
    for part, rows in noisy.items():
        assert rows.column_names == [*home[part].column_names, *names]
        plain = rows.remove_columns([*names, "audio"])
        assert plain[:] == home[part].remove_columns("audio")[:]
        actions, letters = rows["action"], rows["random_2"]
        assert set(letters) == set("abcd")
        # As often right as the most frequent action of four groups drawn at random.
        assert best_guess(letters, actions) < max(Counter(actions).values()) / len(rows) + 0.06
        assert abs(np.corrcoef(rows["random_1"], actions)[0, 1]) < 0.15
        assert abs(np.mean(rows["random_1"])) < 0.2
        assert 0.8 < np.std(rows["random_1"]) < 1.2
    smart_home.main([str(fsdd_folder), str(tmp_path / "home"), "--random_columns", "3"])
    assert "left as it is" in capsys.readouterr().out
    with pytest.raises(SystemExit, match=says("'random_columns': 3", "'random_columns': 0", "--force")):
        smart_home.main([str(fsdd_folder), str(tmp_path / "home")])
    with pytest.raises(SystemExit):
        smart_home.main([str(fsdd_folder), str(tmp_path / "other"), "--random_columns", "-1"])
    assert "random_columns must be 0 or more, got -1" in capsys.readouterr().err


def test_another_seed_is_not_taken_for_what_is_there(tmp_path):
    """Also in a folder of before, which has no file of its settings."""
    basic_motions.main([str(tmp_path / "motions")])
    (tmp_path / "motions/preparation.json").unlink()
    basic_motions.main([str(tmp_path / "motions")])
    with pytest.raises(SystemExit, match=says("'seed': 0", "'seed': 1", "--force")):
        basic_motions.main([str(tmp_path / "motions"), "--seed", "1"])


def test_the_rules():
    state = {"level": 4, "mode": "on", "window": "closed"}
    assert [smart_home.action_of(said, state) for said in (6, 4, 2)] == ["up", "nothing", "down"]
    assert [smart_home.action_of(said, {**state, "window": "open"}) for said in (6, 4, 2)] == [
        "wait",
        "nothing",
        "down",
    ]
    assert [smart_home.action_of(said, {**state, "mode": "eco"}) for said in (6, 5)] == ["refuse", "up"]
    assert smart_home.action_of(4, {**state, "mode": "locked"}) == "refuse"


def test_shapes_and_tones_and_that_all_three_are_needed():
    rows = moving_shapes.questions(90, 0, 0)
    names = rows.features["answer"].names
    columns = rows.remove_columns(["video", "audio"])[:]
    answers = [names[number] for number in columns["answer"]]
    assert Counter(columns["kind"]) == {"colour": 90, "way": 90, "tone": 90, "both": 60}
    by_clip = defaultdict(dict)
    for clip, kind, answer in zip(columns["clip"], columns["kind"], answers):
        by_clip[clip][kind] = answer
    joint = [(seen["way"], seen["tone"], seen["both"]) for seen in by_clip.values() if "both" in seen]
    assert {(way, tone): answer for way, tone, answer in joint} == {
        **dict.fromkeys(moving_shapes.SAME, "yes"),
        **dict.fromkeys(moving_shapes.OPPOSITE, "no"),
    }
    assert Counter(answer for _, _, answer in joint) == {"yes": 30, "no": 30}
    for place in (0, 1):
        assert best_guess([row[place] for row in joint], [row[2] for row in joint]) < 0.7
    assert moving_shapes.questions(3, 0, 0)[:] == moving_shapes.questions(3, 0, 0)[:]
    assert moving_shapes.questions(3, 0, 0)[0] != moving_shapes.questions(3, 0, 1)[0]


def test_reviews(clothing_reviews_folder):
    parts = load_from_disk(str(clothing_reviews_folder))
    assert {name: len(part) for name, part in parts.items()} == {"train": 16440, "validation": 2349, "test": 4697}
    ids = [number for part in parts.values() for number in part["row_id"]]
    assert sorted(ids) == list(range(23486))
    row = clothing_reviews.read()[1]
    assert row["text"].startswith("Love this dress!  it's sooo pretty.")
    assert (row["age"], row["department"], row["rating"], row["recommended"]) == (34, "Dresses", 4, 1)
    assert isinstance(parts["train"].features["rating"], ClassLabel)
    assert any(text is None for text in parts["train"]["text"])


@pytest.mark.slow  # half a minute of sums
def test_films_and_what_is_known_of_viewers(tmp_path):
    movielens.main([str(tmp_path / "movielens")])
    parts = load_from_disk(str(tmp_path / "movielens"))
    assert {name: len(part) for name, part in parts.items()} == {"train": 70000, "validation": 10000, "test": 20000}
    ratings = defaultdict(list)
    for user, rating in zip(parts["train"]["user"], parts["train"]["rating"]):
        ratings[user].append(rating)
    for row in parts["test"].select(range(50)):
        own = ratings[row["user"]]
        assert row["user_count"] == len(own)
        assert row["user_mean"] == pytest.approx(sum(own) / len(own))
        assert 1900 < row["year"] < 2000
        assert "(" not in row["text"][-6:]
    counts = {row["user"]: row["user_count"] for row in parts["train"].select(range(200))}
    assert all(count <= len(ratings[user]) for user, count in counts.items())
    assert sum(count < len(ratings[user]) for user, count in counts.items()) > 0.9 * len(counts)  # without its tenth


@pytest.mark.slow
def test_emoji_records(openmoji_folder, tmp_path):
    emoji_records.main([str(openmoji_folder), str(tmp_path / "records")])
    parts = load_from_disk(str(tmp_path / "records"))
    full = load_from_disk(str(openmoji_folder))
    for name, part in parts.items():
        assert len(part) == sum(value is not None for value in full[name]["sentiment"])
        assert all(value is not None for value in part["sentiment"])
        assert sum(value is not None for value in part["group"]) > 0.9 * len(part)
    row = next(row for row in parts["train"].remove_columns("image") if row["name"] == "red heart")
    assert (row["group"], row["version"], row["skin"]) == ("heart", 0.6, "no")


def test_a_cut_keeps_every_row_once(clothing_reviews_folder):
    rows = load_from_disk(str(clothing_reviews_folder))["test"]
    parts = cut_at_random(rows, 3)
    assert [len(part) for part in parts.values()] == [3288, 470, 939]
    assert sorted(number for part in parts.values() for number in part["row_id"]) == sorted(rows["row_id"])
    assert cut_at_random(rows, 3)["test"]["row_id"][:] == parts["test"]["row_id"][:]
    assert cut_at_random(rows, 4)["test"]["row_id"][:] != parts["test"]["row_id"][:]


@pytest.fixture(scope="module")
def motions(tmp_path_factory):
    folder = tmp_path_factory.mktemp("derived") / "basic_motions"
    basic_motions.main([str(folder)])
    return load_from_disk(str(folder))


def test_motions_are_the_archives_own(motions):
    assert {part: len(rows) for part, rows in motions.items()} == {"train": 32, "validation": 8, "test": 40}
    for part, each in (("train", 8), ("validation", 2), ("test", 10)):
        assert set(Counter(motions[part]["activity"]).values()) == {each}
    for rows in motions.values():
        for readings in rows["readings"]:
            assert len(readings) == 100
            assert {len(step) for step in readings} == {6}
    # The first number of the first sensor of the first line of the package's file, and where it stands there.
    assert motions["train"].features["activity"].names == ["Badminton", "Running", "Standing", "Walking"]
    first = {round(row[0][0], 6) for part in ("train", "validation") for row in motions[part]["readings"]}
    assert 0.079106 in first


def test_a_line_with_another_number_of_sensors_is_named(tmp_path):
    (tmp_path / "one.ts").write_text("@data\n1,2:3,4:walking\n")
    with pytest.raises(PreparationError, match=r"one\.ts, line 2: 6 sensors.*\[2, 2\]"):
        basic_motions.read(tmp_path / "one.ts")


@pytest.fixture(scope="module")
def captions(openmoji_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("derived") / "caption_steps"
    caption_steps.main([str(openmoji_folder), str(folder)])
    return load_from_disk(str(folder))


@pytest.mark.slow
def test_captions_are_written_word_by_word(captions, openmoji_folder):
    openmoji = load_from_disk(str(openmoji_folder))
    vocabulary = captions["train"].features["next"].names
    counts = Counter(word for name in openmoji["train"]["name"] for word in name.lower().split())
    assert {word for word in vocabulary if word != "."} == {word for word, count in counts.items() if count > 1}
    for part, rows in captions.items():
        written: dict[str, str] = {}
        for name, so_far, number in zip(rows["name"], rows["so_far"], rows["next"]):
            words = [*name.lower().split(), "."]
            place = len(so_far.split()) - 3
            assert so_far == " ".join(["a picture of", *words[:place]])
            assert number == (vocabulary.index(words[place]) if words[place] in vocabulary else None)
            written[name] = so_far
        assert set(written) == set(openmoji[part]["name"])
    first = (
        captions["test"]
        .select_columns(["so_far", "next"])
        .filter(lambda text: text == "a picture of", input_columns="so_far")
    )
    assert len(first) == len(openmoji["test"])
