"""The page of documentation: Swagger UI, from the package `swagger-ui-bundle`, and from nowhere else."""

from importlib.resources import files
from typing import Any


PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>mm_hf</title>
<link rel="icon" type="image/png" href="docs/favicon-32x32.png">
<link rel="stylesheet" href="docs/swagger-ui.css">
</head>
<body>
<div id="page"></div>
<noscript>This page needs JavaScript. The description itself is at openapi.json.</noscript>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</body>
</html>
"""
# Without `validatorUrl` the page would ask a server of Swagger's to look at the description.
STARTING = """SwaggerUIBundle({
  url: "openapi.json", dom_id: "#page", deepLinking: true, validatorUrl: null,
  presets: [SwaggerUIBundle.presets.apis], layout: "BaseLayout"
});
"""
ASSETS = {
    "swagger-ui.css": "text/css",
    "swagger-ui-bundle.js": "text/javascript",
    "favicon-32x32.png": "image/png",
}


def has_asset(name: str) -> bool:
    """Whether the page loads a file of this name."""
    return name in ASSETS


def asset(name: str) -> tuple[bytes, str]:
    """One of the files that the page loads, and its type.

    Raises:
        ImportError: the package is not installed.
    """
    folders: Any = files("swagger_ui_bundle").joinpath("vendor")
    for folder in folders.iterdir():
        file = folder.joinpath(name)
        if file.is_file():
            return file.read_bytes(), ASSETS[name]
    raise ImportError("swagger-ui-bundle has no Swagger UI: pip install 'mm_hf[serve]' brings it.")
