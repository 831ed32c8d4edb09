"""The page of documentation asks nobody but this server."""

import re
from html.parser import HTMLParser
from urllib.parse import urljoin, urlsplit


class Links(HTMLParser):
    """All that a page loads or leads to, and what it runs itself."""

    def __init__(self):
        super().__init__()
        self.links: list[str] = []
        self.inline: list[str] = []
        self.inside = ""

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.links += [given[name] for name in ("src", "href", "srcset", "data", "action") if name in given]
        self.inside = tag if tag in ("script", "style") and "src" not in given else ""

    def handle_data(self, data):
        if self.inside and data.strip():
            self.inline.append(data)


def test_it_loads_from_this_server_alone(client, server):
    reply = client.get("/", follow_redirects=True)
    assert reply.status_code == 200
    page = Links()
    page.feed(reply.text)
    assert len(page.links) >= 4
    assert page.inline == []
    kinds = {}
    for link in page.links:
        url = urljoin(str(reply.url), link)
        assert urlsplit(url).netloc == urlsplit(server.url).netloc, link
        loaded = client.get(url)
        assert loaded.status_code == 200, link
        kinds[link.rpartition("/")[2]] = loaded.headers["content-type"].partition(";")[0]
        if link.endswith(".css"):
            loads = re.findall(r"url\(([^)]*)\)|@import\s+(\S+)", loaded.text)
            assert all(one.strip("'\"").startswith("data:") and not other for one, other in loads)
        if link.endswith("start.js"):
            named = re.findall(r"(?:url|validatorUrl): ([^,\s]+)", loaded.text)
            assert named == ['"openapi.json"', "null"]
    assert kinds["swagger-ui.css"] == "text/css"
    assert kinds["swagger-ui-bundle.js"] == "text/javascript"
    assert client.get(urljoin(str(reply.url), "openapi.json")).json()["openapi"].startswith("3.0")


def test_a_browser_may_not_load_anything_else(client):
    policy = client.get("/docs").headers["content-security-policy"]
    parts = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    assert parts["default-src"] == "'none'"
    for kind in ("script-src", "connect-src", "style-src", "img-src"):
        assert set(parts[kind].split()) <= {"'self'", "'unsafe-inline'", "data:"}
    assert parts["script-src"] == "'self'"


def test_it_can_be_left_out(open_service):
    from mm_hf.serve.service import Settings

    _, asking = open_service("classification", Settings(docs=False))
    assert [asking.get(route).status_code for route in ("/", "/docs", "/openapi.json", "/docs/start.js")] == [404] * 4
    assert asking.get("/ready").status_code == 200
