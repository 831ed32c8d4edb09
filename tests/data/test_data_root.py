"""Files beside the data: they are not read, and the message names the way out."""

import re

import pytest

from mm_hf.data import BadRowError, Columns, load_splits
from mm_hf.data.modalities.sound import decode_sound
from mm_hf.data.modalities.vision import decode_image


@pytest.fixture
def folders(tmp_path):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "table").mkdir()
    (tmp_path / "pictures/a.png").write_bytes(b"whatever it is")
    return tmp_path


@pytest.mark.parametrize("path", ["../pictures/a.png", "{}/pictures/a.png"], ids=["relative", "absolute"])
def test_a_file_outside_names_the_flag(folders, path):
    path = path.format(folders)
    row, root = {"photo": {"bytes": None, "path": path}, "row_id": 3, "split": "train"}, str(folders / "table")
    for decode in (lambda: decode_image(row, "photo", root), lambda: decode_sound(row, "photo", root, 16000)):
        with pytest.raises(BadRowError, match=f"{re.escape(path)}.*{re.escape(root)}.*--data_root"):
            decode()
    table = folders / "table/rows.csv"
    table.write_text("photo,text\n" + f"{path},a\n" * 4)
    options = {"validation_fraction": 0, "test_fraction": 0}
    with pytest.raises(ValueError, match=f"{re.escape(root)}.*{re.escape(path)}.*--data_root"):
        load_splits(table, Columns(image="photo", text="text"), **options)
    if path.startswith("/"):  # the way out leads out
        found = load_splits(table, Columns(image="photo", text="text"), data_root=folders, **options)
        assert len(found["train"]) == 4
