"""The size of an environment in MB: the files of some packages and of all their dependencies, as installed here.

python benchmarks/environment_weight.py

onnxruntime numpy tokenizers pillow               211 MB in 21 packages
onnxruntime numpy tokenizers pillow soundfile     216 MB in 24 packages
torch transformers mm_hf                         1351 MB in 50 packages
torch transformers mm_hf[audio]                  1492 MB in 54 packages
"""

from importlib.metadata import Distribution, PackageNotFoundError, distribution

from packaging.requirements import Requirement


ENVIRONMENTS = (
    ("onnxruntime", "numpy", "tokenizers", "pillow"),
    ("onnxruntime", "numpy", "tokenizers", "pillow", "soundfile"),
    ("torch", "transformers", "mm_hf"),
    ("torch", "transformers", "mm_hf[audio]"),
)


def needed(names: tuple[str, ...]) -> dict[str, Distribution]:
    """Packages and all their installed dependencies."""
    known: dict[str, Distribution] = {}
    waiting = [Requirement(name) for name in names]
    while waiting:
        wanted = waiting.pop()
        key = wanted.name.lower().replace("_", "-")
        if key in known and not wanted.extras:
            continue
        try:
            known[key] = distribution(wanted.name)
        except PackageNotFoundError:  # needed on another platform only
            continue
        extras = wanted.extras or {""}
        for line in known[key].requires or []:
            requirement = Requirement(line)
            if requirement.marker is None or any(requirement.marker.evaluate({"extra": extra}) for extra in extras):
                waiting.append(requirement)
    return known


def bytes_of(package: Distribution) -> int:
    """The size of its existing files."""
    paths = [file.locate() for file in package.files or []]
    return sum(path.stat().st_size for path in paths if path.is_file())  # type: ignore[attr-defined]


if __name__ == "__main__":
    for names in ENVIRONMENTS:
        packages = needed(names)
        size = sum(map(bytes_of, packages.values())) / 2**20
        print(f"{' '.join(names):<48}{size:5.0f} MB in {len(packages)} packages")
