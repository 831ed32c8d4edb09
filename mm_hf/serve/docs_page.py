"""The documentation page: Swagger UI, only from the package `swagger-ui-bundle`, never from a server."""

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
<noscript>This page requires JavaScript. The same description is at openapi.json.</noscript>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</body>
</html>
"""
# If `validatorUrl` is not set to null, the page sends the description to a server of Swagger.
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
    """The content and the type of a file that the page loads.

    Raises:
        ImportError: the package is not installed.
    """
    folders: Any = files("swagger_ui_bundle").joinpath("vendor")
    for folder in folders.iterdir():
        file = folder.joinpath(name)
        if file.is_file():
            return file.read_bytes(), ASSETS[name]
    raise ImportError(f"swagger-ui-bundle has no file {name}: install it again with pip install 'mm_hf[serve]'.")
