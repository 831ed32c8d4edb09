"""A dialogue about a picture, with a tiny checkpoint of real encoders."""

import io
import re
import sys

import pytest
import torch
from messages import says
from PIL import Image

from mm_hf import MMFusionForConditionalGeneration, MMFusionProcessor
from mm_hf.commands import answer as answer_command
from mm_hf.commands import chat
from mm_hf.training import exits


@pytest.fixture(scope="module")
def folder(encoders, tmp_path_factory):
    """The checkpoint, two pictures beside it, and a file that is none."""
    folder = tmp_path_factory.mktemp("chat")
    sources = {"vision": encoders / "mobilenet-v2", "text": encoders / "minilm-l6"}
    torch.manual_seed(0)
    model = MMFusionForConditionalGeneration.from_encoders_pretrained(
        **sources,
        decoder_layers=1,
        fusion_module_config={"hidden_size": 32, "num_hidden_layers": 1, "initializer_range": 0.3},
    )
    for name, parameter in model.named_parameters():
        if "crossattention" in name and parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)  # so that it looks where it is shown something
        elif name.endswith("gates"):
            torch.nn.init.constant_(parameter, 0.5)
    model.generation_config.update(max_new_tokens=4)
    model.save_pretrained(folder / "model")
    MMFusionProcessor.from_encoders_pretrained(**sources).save_pretrained(folder / "model")
    Image.linear_gradient("L").convert("RGB").resize((64, 64)).save(folder / "grey.png")
    Image.new("RGB", (64, 64), "blue").save(folder / "blue.png")
    (folder / "broken.png").write_text("no picture")
    return folder


def dialogue(folder, *words, lines=None) -> list[str]:
    """What the script prints."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["chat.py", "--model", str(folder / "model"), *map(str, words)])
        patch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines or [])))
        printed = io.StringIO()
        patch.setattr(sys, "stdout", printed)
        exits.run_script(chat.main)
    return printed.getvalue().splitlines()


@pytest.fixture(scope="module")
def answer(folder):
    """What the model writes of a picture and a text, without any dialogue."""
    model = MMFusionForConditionalGeneration.from_pretrained(folder / "model")
    processor = MMFusionProcessor.from_pretrained(folder / "model")

    def write(picture: str, text: str) -> str:
        with Image.open(folder / picture) as image:
            tokens = model.generate(**processor(images=[image], text=[text]))
        return processor.batch_decode(tokens, skip_special_tokens=True)[0].strip()

    return write


def test_earlier_turns_are_part_of_the_text(folder, answer):
    questions = ["what is it?", "is it warm?", "what colour is it?"]
    printed = dialogue(folder, "--image", folder / "grey.png", "--turns", 1, "--question", *questions)
    assert printed[::2] == questions
    first = answer("grey.png", "what is it?")
    second = answer("grey.png", f"what is it? {first} is it warm?")
    third = answer("grey.png", f"is it warm? {second} what colour is it?")
    assert [line.strip() for line in printed[1::2]] == [first, second, third]
    assert len({first, second, third}) > 1


def test_questions_one_flag_each(folder):
    picture = ["--image", folder / "grey.png", "--turns", 0]
    printed = dialogue(folder, *picture, "--question", "what is it?", "--question", "is it warm?")
    assert printed[::2] == ["what is it?", "is it warm?"]
    assert printed == dialogue(folder, *picture, "--question", "what is it?", "is it warm?")


def test_a_picture_is_encoded_once(folder):
    model = MMFusionForConditionalGeneration.from_pretrained(folder / "model")
    talk = chat.Dialogue(model, MMFusionProcessor.from_pretrained(folder / "model"), turns=1)
    seen = []
    model.model.encoders["vision"].register_forward_pre_hook(lambda *_: seen.append(1))
    talk.show(folder / "grey.png")
    for question in ("what is it?", "is it warm?", "who?"):
        talk.ask(question)
    assert len(seen) == 1
    talk.show(folder / "blue.png")
    talk.ask("who?")
    assert len(seen) == 2


def test_in_the_terminal(folder, answer):
    lines = ["what is it?", "", f"/image {folder / 'nowhere.png'}", f"/image {folder / 'broken.png'}", "is it warm?"]
    lines += ["/forget", "is it warm?", f"/image {folder / 'blue.png'}", "is it warm?", "/quit", "never asked"]
    first, nowhere, broken, second, alone, blue = dialogue(folder, "--image", folder / "grey.png", lines=lines)
    assert "nowhere.png" in nowhere
    assert "broken.png" in broken
    assert first.strip() == answer("grey.png", "what is it?")
    assert second.strip() == answer("grey.png", f"what is it? {first.strip()} is it warm?")
    assert alone.strip() == answer("grey.png", "is it warm?")
    assert blue.strip() == answer("blue.png", "is it warm?")


def test_the_oldest_turns_make_room(folder):
    model = MMFusionForConditionalGeneration.from_pretrained(folder / "model")
    processor = MMFusionProcessor.from_pretrained(folder / "model")
    talk = chat.Dialogue(model, processor, turns=5)
    talk.said = ["one two three", "four five six", "seven eight nine"]
    assert talk.text("ten?") == "one two three four five six seven eight nine ten?"
    processor.tokenizer.model_max_length = 10  # with CLS and SEP
    assert talk.text("ten?") == "four five six seven eight nine ten?"
    processor.tokenizer.model_max_length = 9
    assert talk.text("ten?") == "seven eight nine ten?"
    processor.tokenizer.model_max_length = 4
    assert talk.text("ten?") == "ten?"
    talk.turns = 0
    processor.tokenizer.model_max_length = 100
    assert talk.text("ten?") == "ten?"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--image", "nowhere.png"], "nowhere.png"),
        (["--image", "nowhere.png", "--turns", "-1"], says("turns", 0, -1)),
    ],
)
def test_what_does_not_fit_is_one_line(folder, words, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        dialogue(folder, *words)
    assert re.search(message, f"{stopped.value} {capsys.readouterr().err}")


def test_another_model_is_refused(encoders, tmp_path):
    captioner = MMFusionForConditionalGeneration.from_encoders_pretrained(
        vision=encoders / "mobilenet-v2", decoder=encoders / "minilm-l6", decoder_layers=1
    )
    captioner.save_pretrained(tmp_path / "model")
    with pytest.raises(
        SystemExit, match=r"model .*MMFusionForConditionalGeneration.*vision.*MMFusionForConditionalGeneration"
    ):
        dialogue(tmp_path, "--image", "nowhere.png")


def test_it_imports_what_the_checkpoint_needs(folder):
    """A file that is named, before the model is loaded; else those of the run."""
    with pytest.raises(SystemExit, match=r"gone\.py"):
        dialogue(folder, "--image", folder / "blue.png", "--import", "gone.py")
    recipe = folder / "model/recipe.json"
    recipe.write_text('{"import": ["lost.py"]}')
    try:
        with pytest.raises(SystemExit, match=r"lost\.py"):
            dialogue(folder, "--image", folder / "blue.png")
    finally:
        recipe.unlink()


def test_answer_imports_too(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["answer", "nowhere", "--import", "gone.py"])
    with pytest.raises(SystemExit, match=r"gone\.py"):
        answer_command.script()
