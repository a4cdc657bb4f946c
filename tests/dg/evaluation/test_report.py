import base64
import re
from html.parser import HTMLParser

import pytest
from PIL import Image

from dg.evaluation.report import (
    Code,
    Document,
    Note,
    Picture,
    Section,
    Table,
    write_markdown,
    write_report,
)

HOSTILE = '<script>alert("1")</script> & | pipes `code` *stars*'


@pytest.fixture
def document(tmp_path):
    pictures = tmp_path / "my pictures"
    pictures.mkdir()
    Image.new("RGB", (8, 8), "red").save(pictures / "bars.png")
    Image.new("L", (8, 8)).save(pictures / "grid.JPG", "jpeg")
    return Document(
        "Digits " + HOSTILE,
        "What was found: " + HOSTILE,
        "Over five repetitions.",
        sections=[
            Section(
                "Result",
                [
                    "A paragraph.",
                    Picture(pictures / "bars.png", 'The "same" numbers'),
                    Table(
                        ["system", "FD", "images"],
                        [["unguided", 4.02, 100], [HOSTILE, 3.12, 100]],
                        highlight=1,
                        caption="Lower is better.",
                    ),
                ],
            ),
            Section(
                "Again",
                [
                    Code("python reproduce.py digits\n# <done>"),
                    Note("A caveat."),
                    Picture(pictures / "grid.JPG", "Samples", wide=True),
                    Table(["a", "b"], [], align="cl"),
                ],
            ),
        ],
        footer="2 cores",
    )


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.stack, self.tags, self.parents, self.text, self.unclosed = [], [], [], "", []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.parents.append(self.stack[-1] if self.stack else None)
        if tag not in ("meta", "img"):
            self.stack.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.stack.pop()[0] == tag

    def handle_data(self, data):
        self.text += data

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def test_report_is_one_self_contained_page(tmp_path, document):
    write_report(tmp_path / "report.html", document)
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["my pictures", "report.html"]
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert not page.stack
    assert not {"script", "link", "iframe", "object", "base"} & {tag for tag, _ in page.tags}
    assert not re.search(r"https?:|url\(|@import|file:", text)
    for _, attributes in page.tags:
        assert not [
            name for name in attributes if name.startswith("on") or name in ("href", "srcset")
        ]
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in page.all(
        "meta"
    )
    assert "default-src 'none'" in text


def test_pictures_are_inside(tmp_path, document):
    write_report(tmp_path / "report.html", document)
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    sources = [attributes["src"] for attributes in page.all("img")]
    assert [source.split(",")[0] for source in sources] == [
        "data:image/png;base64",
        "data:image/jpeg;base64",
    ]
    picture = tmp_path / "my pictures" / "bars.png"
    assert base64.b64decode(sources[0].split(",")[1]) == picture.read_bytes()
    assert page.all("img")[0]["alt"] == 'The "same" numbers'


def test_tables_scroll_within_themselves(tmp_path, document):
    write_report(tmp_path / "report.html", document)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    holders = [
        parent for (tag, _), parent in zip(page.tags, page.parents, strict=True) if tag == "table"
    ]
    assert len(holders) == 2 and all(attributes["class"] == "scroll" for _, attributes in holders)
    assert re.search(r"\.scroll[^{]*\{ overflow-x: auto", text)
    assert "prefers-color-scheme: dark" in text and "@media print" in text
    assert [attributes["class"] for attributes in page.all("td")] == ["l", "r", "r"] * 2
    assert [attributes.get("class") for attributes in page.all("tr")] == [None, None, "best", None]


def test_numbers_and_commands_are_never_cut(tmp_path, document):
    write_report(tmp_path / "report.html", document)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert re.search(r"\npre \{[^}]*white-space: pre-wrap", text)
    assert re.search(r"\ntd \{ white-space: nowrap", text)
    kinds = [attributes["class"] for attributes in Page(text).all("img")]
    assert kinds == ["chart", "wide"]
    table = Table(["", "FD of all"], [["a b", "4.0 ± 0.1"]])
    write_markdown(tmp_path / "a.md", Document("t", sections=[Section("s", [table])]))
    content = (tmp_path / "a.md").read_text(encoding="utf-8")
    assert "| a b | 4.0\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}0.1 |" in content


def test_all_text_is_escaped_and_kept(tmp_path, document):
    write_report(tmp_path / "report.html", document)
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert page.text.count(HOSTILE) == 4  # title twice, lead, table
    for part in (
        "Over five repetitions.",
        "A paragraph.",
        "# <done>",
        "A caveat.",
        "Lower is better.",
        "Samples",
        "2 cores",
    ):
        assert part in page.text


def test_markdown_has_the_same_content(tmp_path, document):
    write_markdown(tmp_path / "docs.md", document)
    lines = (tmp_path / "docs.md").read_text(encoding="utf-8").splitlines()
    escaped = r'\<script\>alert("1")\</script\> & \| pipes \`code\` \*stars\*'
    assert lines[0] == "# Digits " + escaped
    assert f"**What was found: {escaped}**" in lines and "Over five repetitions." in lines
    image = '<img src="my%20pictures/bars.png" width="560" alt="The &quot;same&quot; numbers">'
    assert image in lines
    at = lines.index("| system | FD | images |")
    assert lines[at + 1 : at + 4] == [
        "| :--- | ---: | ---: |",
        "| unguided | 4.02 | 100 |",
        f"| **{escaped}** | **3.12** | **100** |",
    ]
    assert '<img src="my%20pictures/grid.JPG" alt="Samples">' in lines  # fills the page
    assert "*Lower is better.*" in lines and "> A caveat." in lines and "| :---: | :--- |" in lines
    at = lines.index("```")
    assert lines[at : at + 4] == ["```", "python reproduce.py digits", "# <done>", "```"]


@pytest.mark.parametrize(
    "text, escaped",
    [
        ("- item", r"\- item"),
        ("1. item", r"1\. item"),
        ("## head", r"\## head"),
        ("---", r"\---"),
        ("-0.5 nats", "-0.5 nats"),
        ("1.10", "1.10"),
        ("a_b &lt; c", r"a\_b \&lt; c"),
        ("two\nlines", "two lines"),
    ],
)
def test_markdown_escapes_only_what_would_be_read(tmp_path, text, escaped):
    write_markdown(tmp_path / "a.md", Document("t", sections=[Section("s", [text, Code("````")])]))
    content = (tmp_path / "a.md").read_text(encoding="utf-8")
    assert content == f"# t\n\n## s\n\n{escaped}\n\n`````\n````\n`````\n"


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: Table(["a", "b"], [[1]]), "2 columns has a row of 1 cells"),
        (lambda: Table(["a", "b"], [], align="lx"), "align"),
    ],
)
def test_table_errors(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize(
    "name, message", [("absent.png", "does not exist"), ("figure.svg", "not a PNG")]
)
def test_picture_errors_leave_no_report(tmp_path, name, message):
    with pytest.raises(ValueError, match=message):
        write_report(
            tmp_path / "r.html",
            Document("t", sections=[Section("s", [Picture(tmp_path / name, "c")])]),
        )
    assert not list(tmp_path.iterdir())
