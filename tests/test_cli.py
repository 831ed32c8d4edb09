"""The command `mm_hf`: verbs and their help, recipe or data, encoders of the user's own file, recipes, versions."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from argparse import SUPPRESS
from pathlib import Path

import pytest
from messages import says
from torch import nn

import mm_hf
from mm_hf import cli
from mm_hf.data.feature_store import FeatureStore
from mm_hf.models.recurrent import RNNS
from mm_hf.prepare import places
from mm_hf.training import checks, default_encoders, open_run, provenance, recipe
from mm_hf.training.model_arguments import ModelArguments
from mm_hf.training.recipe import given_keys, parse_arguments
from mm_hf.training.recipe_files import packaged_recipes, read_recipe
from mm_hf.training.recipe_or_data import name_of_data


REPOSITORY = Path(__file__).parent.parent
LATE = ("compare", "predict")  # their modules are looked at only where they are there
LIGHT = [verb for verb in cli.VERBS if (REPOSITORY / f"{cli.VERBS[verb].module.replace('.', '/')}.py").exists()]


@pytest.fixture
def run(monkeypatch, capsys):
    """Calls the command in this process; gives what it printed, and what it ended with."""

    def call(*words: str) -> tuple[str, object]:
        monkeypatch.setattr(sys, "argv", ["mm_hf", *map(str, words)])
        try:
            cli.main()
        except SystemExit as end:
            printed = capsys.readouterr()
            return printed.out + printed.err, end.code
        return capsys.readouterr().out, None

    return call


# --- Help


def test_help_loads_neither_torch_nor_transformers():
    """In one fresh process that is the command: all verbs, one after the other."""
    code = (
        "import sys\n"
        "sys.argv = [str(__import__('pathlib').Path(sys.executable).parent / 'mm_hf')]\n"
        "from mm_hf.cli import main\n"
        "for words in [['--help'], ['recipes', 'list'], *([verb, '--help'] for verb in sys.stdin.read().split())]:\n"
        "    sys.argv[1:] = words\n"
        "    try:\n"
        "        main()\n"
        "    except SystemExit:\n"
        "        pass\n"
        "    heavy = {'torch', 'transformers', 'datasets', 'accelerate', 'numpy', 'PIL'} & set(sys.modules)\n"
        "    assert not heavy, (words, heavy)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    process = subprocess.run(
        [sys.executable, "-c", code],
        input=" ".join(LIGHT),
        env=environment,
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    assert process.stdout.count("usage: mm_hf") >= len(LIGHT)


def test_the_command_finds_the_public_names_when_a_verb_asks_for_them(monkeypatch):
    """`mm_hf/__init__.py` as the command runs it, and as a program does."""
    beside = str(Path(sys.executable).parent / "mm_hf")
    for words, late in (
        (["python", beside, "train"], True),
        (["python", "-m", "mm_hf", "train"], True),
        (["python", "-m", "pack.go", "mm_hf"], False),
        (["python", "/work/mm_hf"], False),  # somebody's script of that name
        (["python", "/work/train.py"], False),
    ):
        monkeypatch.setattr(sys, "orig_argv", words)
        monkeypatch.setattr(sys, "argv", ["-m" if words[1] == "-m" else words[1]])
        spec = importlib.util.spec_from_file_location("mm_hf", mm_hf.__file__, submodule_search_locations=[])
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        assert ("MMFusionConfig" not in vars(module)) == late
        assert {name: getattr(module, name) for name in mm_hf.__all__} == {n: getattr(mm_hf, n) for n in mm_hf.__all__}
        with pytest.raises(AttributeError):
            _ = module.nowhere


def test_the_list_of_verbs(run):
    text, code = run("--help")
    assert code is None
    assert all(re.search(rf"^  {verb} ", text, re.MULTILINE) for verb in cli.VERBS)
    assert run() == (text, None)
    assert run("--version") == (f"mm_hf {mm_hf.__version__}\n", None)


@pytest.mark.parametrize("verb", [verb for verb in LIGHT if verb not in LATE])
def test_help_of_a_verb_tells_what_it_does_and_how(verb, run):
    text, code = run(verb, "--help")
    assert not code
    assert text.startswith(f"usage: mm_hf {verb}")
    assert re.search(rf"^    mm_hf {verb} ", text, re.MULTILINE), "no example"
    assert "training/" not in text


@pytest.mark.parametrize("verb", ["train", "finetune"])
def test_help_of_training_lists_every_key_in_its_group(verb, run):
    text, _ = run(verb, "--help")
    text = text[text.index("The model:") :]
    groups = re.split(r"^(The model|The data|The training):$", text, flags=re.MULTILINE)[2::2]
    for group, kind in zip(groups, recipe.ALL_ARGUMENTS, strict=True):
        for key in kind.__dataclass_fields__.values():
            if key.metadata["help"] == SUPPRESS:  # it is written by another key
                continue
            flag = key.metadata.get("flag", key.name)
            assert re.search(rf"^  --{flag}\b", group, re.MULTILINE), flag
            assert key.metadata["help"].split()[0] in group
    assert "--text-column" not in text
    assert "--label_column, --label TEXT" in text
    assert re.search(r"--floors \[true\|false\].*?\(default: true\)", text, re.DOTALL)


def test_the_choices_that_help_knows_without_torch():
    assert ModelArguments.__dataclass_fields__["series_rnn_type"].metadata["choices"] == list(RNNS)
    assert issubclass(RNNS["lstm"], nn.Module)


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["trian"], ["'trian'", "Did you mean 'train'", "evaluate"]),
        (["prepare", "easyvqa"], ["'easyvqa'", "Did you mean 'easy_vqa'"]),
        (["recipes", "show", "easy_vqaa"], ["'easy_vqaa'", "Did you mean 'easy_vqa'"]),
        (["recipes", "list", "now"], ["now"]),
        (["train", "rows.csv", "--labels", "a"], ["mm_hf train", "--labels", "Did you mean 'label'"]),
        (["finetune", "--seed", "x"], ["mm_hf finetune", "--seed", "'x'"]),
        (["evaluate", "--model", "m", "--mising"], ["mm_hf evaluate", "--mising", "Did you mean 'missing'"]),
        (["evaluate", "runs/x", "--model", "m"], ["mm_hf evaluate", "'runs/x'"]),
        (["search", "qery", "--model", "m"], ["mm_hf search", "qery"]),
        (["chat", "--model", "m"], ["mm_hf chat", "--image"]),
        (["results"], ["mm_hf results", "run"]),
    ],
)
def test_what_is_mistyped_is_told_by_name(words, parts, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("rows.csv").write_text("a,b\n1,2\n")
    text, code = run(*words)
    assert code not in (None, 0)
    for part in parts:
        assert part in f"{text}{code}"


def test_a_verb_whose_module_is_missing_is_one_line(run, monkeypatch):
    monkeypatch.setitem(cli.VERBS, "predict", cli.Verb("", "mm_hf.commands.nowhere"))
    text, code = run("predict", "a")
    assert code == 2
    assert text.count("\n") == 1
    assert "mm_hf.commands.nowhere" in text


def test_ctrl_c_while_libraries_load_is_one_line(run, monkeypatch):
    def stopped(name):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "import_module", stopped)
    text, code = run("train", "rows.csv")
    assert (text.strip(), code) == ("stopped by Ctrl-C.", 130)


@pytest.mark.parametrize("name", ["runs/katt", "rums"])
@pytest.mark.parametrize("words", [["evaluate"], ["explain"], ["predict", "a.csv", "-o", "b.csv"]])
def test_a_misspelt_run_is_told_before_the_hub_is_asked(words, name, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("runs/kat").mkdir(parents=True)
    verb, *others = words
    text, code = run(verb, name, *others)
    meant = {"runs/katt": "kat", "rums": "runs"}[name]
    assert f"no folder {name!r} here. Did you mean {meant!r}?" in f"{text} {code}"


# --- Recipe or data


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with a recipe, files of data and a folder of recipes."""
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text("dataset: other.csv\nlabel_column: a\n")
    for name in ("houses.csv", "other.csv"):
        Path(name).write_text("a,b\n1,2\n")
    for name in ("ONE.YAML", "one.json"):
        Path(name).write_text('{"seed": 3, "dataset": "other.csv"}')
    Path("rows.json").write_text('{"seed": [3, 4], "text": ["a", "b"]}')
    Path("recipes").mkdir()
    Path("recipes/one.yml").write_text("seed: 3\n")
    return tmp_path


@pytest.mark.parametrize(
    ("words", "name", "dataset"),
    [
        (["mine.yaml"], "mine", "other.csv"),
        (["mine.yaml", "--dataset", "houses.csv"], "mine", "houses.csv"),
        (["recipes/one.yml"], "one", None),
        (["ONE.YAML"], "ONE", "other.csv"),
        (["one.json"], "one", "other.csv"),  # recipes of before may have any ending
        (["rows.json"], "rows", "rows.json"),
        (["houses.csv"], "houses", "houses.csv"),
        (["./houses.csv", "--dataset", "./houses.csv"], "houses", "./houses.csv"),
        (["--seed", "3", "houses.csv"], "houses", "houses.csv"),
        (["me/houses"], "houses", "me/houses"),
        (["--dataset", "houses.csv"], "run", "houses.csv"),  # as it was before
        (["easy_vqa.yaml"], "easy_vqa", "data/easy_vqa"),
        (["speech_ctc_numbers.yaml"], "speech_ctc_numbers", "data/spoken_numbers"),
    ],
)
def test_what_ends_in_yaml_is_a_recipe_and_anything_else_data(words, name, dataset, here):
    found, _, data_args, _ = parse_arguments("", words)
    assert (found, data_args.dataset) == (name, dataset)
    assert ("dataset" in given_keys(words)) == (dataset is not None)


def test_a_packaged_recipe_is_named_and_a_file_here_goes_first(here, capsys):
    parse_arguments("", ["easy_vqa.yaml"])
    said = capsys.readouterr().out
    assert "easy_vqa.yaml: from the package" in said
    assert "mm_hf recipes copy easy_vqa" in said
    Path("easy_vqa.yaml").write_text("seed: 7\n")
    assert parse_arguments("", ["easy_vqa.yaml"])[-1].seed == 7
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["houses.csv", "--dataset", "other.csv"], ["'houses.csv'", "'other.csv'", "twice"]),
        (["mine.yaml", "houses.csv"], ["'mine.yaml'", "'houses.csv'", "--dataset"]),
        (["house.csv"], ["'house.csv'", "'houses.csv'?"]),
        (["mine"], ["'mine'", "'mine.yaml'?"]),
        (["easy_vqa"], ["'easy_vqa'", "'easy_vqa.yaml'?", "--dataset easy_vqa"]),
        (["easy_vqq.yaml"], ["'easy_vqq.yaml'", "'easy_vqa.yaml'?"]),
        (["easy_vqa.yml"], ["'easy_vqa.yml'", "'easy_vqa.yaml'?"]),
        (["nowhere/easy_vqa.yaml"], ["'nowhere/easy_vqa.yaml'", "'easy_vqa.yaml'"]),
        (["recipes"], ["'recipes'", "one.yml"]),
        (["/no/such/folder"], ["'/no/such/folder'"]),
    ],
)
def test_no_other_recipe_or_data_is_taken_without_a_word(words, parts, here, capsys):
    with pytest.raises(SystemExit):
        parse_arguments("", words)
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    for part in parts:
        assert part in error


@pytest.mark.parametrize(
    ("data", "name"),
    [
        ("houses.csv", "houses"),
        ("a/houses.jsonl.gz", "houses"),
        ("a/houses/", "houses"),
        ("me/houses", "houses"),
        ("houses/*.tar", "houses"),
        ("houses/part-{000..003}.tar", "houses"),
        ("../houses", "houses"),
        ("v1.2", "v1.2"),
        ("*.csv", "run"),
    ],
)
def test_names_of_runs_on_data(data, name):
    assert name_of_data(data) == name


def test_the_present_folder_has_a_name_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert name_of_data(".") == tmp_path.name


@pytest.mark.parametrize("flag", ["--label", "--label_column", "--label-column"])
def test_label_is_short_for_label_column(flag, here):
    _, _, data_args, _ = parse_arguments("", ["houses.csv", flag, "a", "b"])
    assert data_args.label_column == ["a", "b"]
    assert "label" not in vars(data_args)
    assert "label_column" in given_keys(["houses.csv", flag, "a"])


class EndOfLook(Exception):
    """Ends `open_run` where the folder of the run is known."""


@pytest.mark.parametrize(("words", "folder"), [(["houses.csv"], "houses"), (["--dataset", "houses.csv"], "run")])
def test_runs_go_to_a_folder_of_their_name(words, folder, here, monkeypatch):
    seen = []

    def claim(accelerator, output_dir, *others):
        seen.append(output_dir)
        raise EndOfLook

    monkeypatch.setattr(open_run, "claim_run_folder", claim)
    with pytest.raises(EndOfLook):
        open_run.open_run("", "train.py", [*words, "--table_columns", "b", "--label", "a", "--report_to", "none"])
    assert seen == [Path("runs", folder)]


# --- Encoders that nobody named


COLUMNS = ["--dataset", "houses.csv", "--label", "a"]


def chosen(*words: str) -> dict[str, str | None]:
    """The encoders of a run."""
    _, *groups = parse_arguments("", [*COLUMNS, *words])
    checks.check_arguments("train.py", *groups)
    return {name: getattr(groups[0], f"{name}_encoder") for name in ("vision", "text", "audio")}


def test_encoders_of_the_flag_of_the_file_and_of_the_hub(here, monkeypatch, capsys):
    columns = ["--image_column", "i", "--text_column", "t", "--audio_column", "s"]
    monkeypatch.delenv("MM_HF_ENCODERS", raising=False)
    of_the_hub = ["google/vit-base-patch16-224", "google-bert/bert-base-uncased", "openai/whisper-tiny"]
    assert list(chosen(*columns).values()) == of_the_hub
    said = capsys.readouterr().out
    assert all(encoder in said for encoder in of_the_hub)
    Path("own/my-vit").mkdir(parents=True)
    Path("own/encoders.yaml").write_text("vision: my-vit\ntext: me/my-bert\n")
    monkeypatch.setenv("MM_HF_ENCODERS", "own/encoders.yaml")
    own = str(here / "own/my-vit")
    assert list(chosen(*columns).values()) == [own, "me/my-bert", of_the_hub[2]]
    said = capsys.readouterr().out
    assert f"vision_encoder is {own}, from own/encoders.yaml (MM_HF_ENCODERS)" in said
    assert f"audio_encoder is {of_the_hub[2]}, the default" in said
    assert chosen(*columns, "--vision_encoder", "me/other")["vision"] == "me/other"
    assert chosen("--text_column", "t") == {"vision": None, "text": "me/my-bert", "audio": None}


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (None, ["file", "own.yaml"]),
        ("visoin: a\n", ["'visoin'", "'vision'?"]),
        ("tabular: a\n", ["'tabular'", "vision, text"]),
        ("text: [a]\n", ["text", "['a']"]),
        ("text:\n", ["text", "None"]),
        ("text\n", ["'text'"]),
        ("text: a\ntext: b\n", ["'text'", "line 1", "line 2"]),
        ("text: ./nowhere\n", ["text", "./nowhere"]),
    ],
)
def test_a_file_of_encoders_that_is_wrong(content, parts, here, monkeypatch):
    if content is not None:
        Path("own.yaml").write_text(content)
    monkeypatch.setenv("MM_HF_ENCODERS", "own.yaml")
    with pytest.raises(ValueError, match=r"MM_HF_ENCODERS is 'own\.yaml'") as error:
        default_encoders.own_encoders()
    for part in parts:
        assert part in str(error.value)


def test_a_begun_run_keeps_its_encoders_or_refuses(here, monkeypatch):
    """The file of encoders changed, or is there now: the folder holds the run of another encoder."""
    words = ["houses.csv", "--text_column", "b", "--label", "a", "--report_to", "none"]
    monkeypatch.setenv("MM_HF_ENCODERS", "own.yaml")
    Path("own.yaml").write_text("text: me/first\n")

    def end(*others, **more):
        raise EndOfLook

    monkeypatch.setattr(open_run, "load_parts", end)
    with pytest.raises(EndOfLook):
        open_run.open_run("", "train.py", words)
    assert json.loads(Path("runs/houses/recipe.json").read_text())["text_encoder"] == "me/first"
    Path("runs/houses/checkpoint-1").mkdir()  # it has begun
    with pytest.raises(EndOfLook):
        open_run.open_run("", "train.py", words)
    Path("own.yaml").write_text("text: me/second\n")
    with pytest.raises(ValueError, match=r"text_encoder \('me/first', now 'me/second'\)"):
        open_run.open_run("", "train.py", words)
    monkeypatch.delenv("MM_HF_ENCODERS")
    with pytest.raises(ValueError, match=r"text_encoder \('me/first', now 'google-bert"):
        open_run.open_run("", "train.py", words)


# --- Recipes, and what they need


def test_each_recipe_says_what_it_needs():
    """The commands that make each of its folders stand in its first lines, and are those that an error names."""
    builders = {file.stem for file in (REPOSITORY / "mm_hf/prepare").glob("*.py") if "\ndef main(" in file.read_text()}
    assert set(places.BUILDERS) == builders
    for file in packaged_recipes().values():
        head = [line for line in file.read_text().splitlines() if line.startswith("#")]
        needs = [line.removeprefix("# Needs: ") for line in head if line.startswith("# Needs: ")]
        assert not head[0].startswith("# Needs")
        assert len(head[0]) < 120
        named = [value for value in read_recipe(file).values() if str(value).startswith("data/")]
        for place in named:
            assert places.how_to_make(f"nowhere/{place}") is None
            assert places.how_to_make(place) in needs, f"{file.name} does not say how to make {place}"
        for command in needs:  # and of what these start from
            for word in command.split()[3:]:
                if word.startswith("data/") and word != "data/encoders":
                    assert places.how_to_make(word) in needs, f"{file.name}: {word}"


def test_makefile_makes_them_by_the_same_commands():
    made = (REPOSITORY / "Makefile").read_text().replace("\\\n", " ")
    made = " ".join(re.sub(r'"\$\((\w+)_ZIP\)"', r"\1.zip", made).split())
    for name, template in {**places.ENCODERS, **places.DATA}.items():
        folder = f"data/encoders/{name}" if name in places.ENCODERS else f"data/{name}"
        assert f"$(BIN)/mm_hf prepare {template.format(folder, parent='data/encoders')}" in made


@pytest.fixture(autouse=True)
def without_data(request, tmp_path, monkeypatch):
    """The folders of the demonstrations may lie in the repository: tests do not look there."""
    monkeypatch.chdir(tmp_path)


def test_a_missing_folder_is_told_with_what_makes_it(here):
    with pytest.raises(ValueError, match="data/encoders/mobilenet-v2") as error:
        checks.check_arguments("train.py", *parse_arguments("", ["easy_vqa.yaml"])[1:])
    assert str(error.value).count("`mm_hf prepare encoders data/encoders`") == 1
    assert "`mm_hf prepare easy_vqa data/easy_vqa`" in str(error.value)
    Path("data/easy_vqa").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"`mm_hf prepare encoders .*`") as error:
        checks.check_arguments("train.py", *parse_arguments("", ["easy_vqa.yaml"])[1:])
    assert "prepare easy_vqa" not in str(error.value)
    assert places.how_to_make("me/easy_vqa") is None  # an id of the Hub
    assert places.how_to_make("/elsewhere/easy_vqa") == "mm_hf prepare easy_vqa /elsewhere/easy_vqa"


def test_prepare_lists_the_builders(run):
    text, _ = run("prepare", "--help")
    for name in places.BUILDERS:
        assert re.search(rf"^  {name} +\S", text, re.MULTILINE)


def test_recipes_are_listed_shown_and_copied(run, tmp_path):
    text, code = run("recipes", "list")
    assert code is None
    assert len(text.splitlines()) == len(packaged_recipes()) == len(list((REPOSITORY / "training/recipes").iterdir()))
    assert run("recipes") == (text, None)
    file = packaged_recipes()["easy_vqa.yaml"]
    assert run("recipes", "show", "easy_vqa.yaml") == (file.read_text(), None)
    text, code = run("recipes", "copy", "easy_vqa")
    assert code is None
    assert "mm_hf train easy_vqa.yaml" in text
    assert Path("easy_vqa.yaml").read_text() == file.read_text()


def test_a_recipe_is_copied_with_what_it_is_based_on(run):
    assert run("recipes", "copy", "speech_ctc_numbers", "mine/numbers.yaml")[1] is None
    names = {"numbers.yaml", "speech_ctc.yaml", "spoken_digits.yaml"}
    assert {file.name for file in Path("mine").iterdir()} == names
    assert read_recipe(Path("mine/numbers.yaml")) == read_recipe(packaged_recipes()["speech_ctc_numbers.yaml"])


def test_a_copy_overwrites_nothing(run):
    Path("cnn_gru_sum.yaml").write_text("seed: 1\n")
    Path("cnn_lstm_concat.yaml").write_text("seed: 2\n")
    text, code = run("recipes", "copy", "cnn_gru_sum")
    assert "cnn_gru_sum.yaml, cnn_lstm_concat.yaml" in str(code)
    assert not Path("easy_vqa.yaml").exists()  # all or none
    assert Path("cnn_gru_sum.yaml").read_text() == "seed: 1\n"
    assert run("recipes", "copy", "cnn_gru_sum", "--force")[1] is None
    assert read_recipe(Path("cnn_gru_sum.yaml"))["fusion"] == "sum"
    text, code = run("recipes", "copy", "cnn_gru_sum")  # all the same: nothing to refuse
    assert code is None
    assert text.count("exists already, with the same content") == 3


# --- The version of what runs


@pytest.mark.parametrize("pyproject", [None, '[project]\nname = "theirs"\n'])
@pytest.mark.parametrize("place", [".venv/lib/python3/site-packages", "."])
def test_the_commit_of_somebody_elses_repository_is_never_ours(place, pyproject, tmp_path, monkeypatch):
    """Installed in an environment within a project's folder, or copied beside their code, tracked and all."""

    def git(*words: str) -> str:
        command = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b", *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    package = tmp_path / place / "mm_hf"
    shutil.copytree(REPOSITORY / "mm_hf/training", package / "training", ignore=shutil.ignore_patterns("*.pyc"))
    (package / "__init__.py").write_text("")
    if pyproject is not None:
        (tmp_path / "pyproject.toml").write_text(pyproject)
    git("init", "-q")
    git("add", "-A", "--force")
    git("commit", "-q", "-m", "theirs")
    commit = git("rev-parse", "HEAD")
    monkeypatch.setattr(provenance, "PACKAGE", package)
    provenance.checkout.cache_clear()
    try:
        assert provenance.commit_or_version() == f"mm_hf {mm_hf.__version__}"
        (package.parent / "pyproject.toml").write_text('[project]\nname = "mm_hf"\n')  # our own checkout
        provenance.checkout.cache_clear()
        is_root = package.parent == tmp_path
        assert provenance.commit_or_version().startswith(commit if is_root else "mm_hf ")
    finally:
        provenance.checkout.cache_clear()


def test_the_cache_is_listed_and_cleared(run, tmp_path):
    feature_set = FeatureStore(tmp_path).open({"encoder": "x"}, "vision mobilenet-v2")
    (feature_set.folder / "one.safetensors").write_bytes(b"0" * 2_500_000)
    said, _ = run("cache", "--cache_dir", tmp_path)
    assert re.search(says(str(tmp_path), "1 set", "2.5 MB", "vision mobilenet-v2"), said)
    folder = feature_set.folder
    del feature_set  # nobody uses it
    said, _ = run("cache", "--cache_dir", tmp_path, "--clear")
    assert re.search(says("2.5 MB removed", "0 set"), said)
    assert not folder.exists()
