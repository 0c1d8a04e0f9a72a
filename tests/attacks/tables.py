"""Hostile tables: CSV files and spreadsheets that are huge, damaged, or something else."""

import io
import zipfile

from attack import Attack
from images import png

SHEET = '<worksheet xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"><sheetData>%s</sheetData></worksheet>'


def spreadsheet(sheet, strings="<sst/>", method=zipfile.ZIP_DEFLATED):
    out = io.BytesIO()
    kind = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    with zipfile.ZipFile(out, "w", method) as file:
        file.writestr(
            "[Content_Types].xml",
            '<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types"/>',
        )
        file.writestr(
            "_rels/.rels",
            f'<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships"><Relationship Id="r" Type="{kind}/officeDocument" Target="xl/workbook.xml"/></Relationships>',
        )
        file.writestr(
            "xl/workbook.xml",
            f'<workbook xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main" xmlns:r="{kind}"><sheets><sheet name="ALL" sheetId="1" r:id="s"/></sheets></workbook>',
        )
        file.writestr(
            "xl/_rels/workbook.xml.rels",
            f'<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships"><Relationship Id="s" Type="{kind}/worksheet" Target="worksheets/sheet1.xml"/></Relationships>',
        )
        file.writestr("xl/worksheets/sheet1.xml", sheet)
        file.writestr("xl/sharedStrings.xml", strings)
    return out.getvalue()


def sheets():
    yield "cells.xlsx", spreadsheet(SHEET % ("<row>" + "<c><v>1</v></c>" * 5_000_000 + "</row>"))
    yield "rows.xlsx", spreadsheet(SHEET % ('<row r="1"><c r="A1"><v>1</v></c></row>' * 3_000_000))
    yield "far_cell.xlsx", spreadsheet(
        SHEET % '<row r="1048576"><c r="XFD1048576"><v>1</v></c></row><row r="1"><c r="A1"><v>1</v></c></row>'
    )
    yield "long_text.xlsx", spreadsheet(
        SHEET % ('<row r="1"><c r="A1" t="inlineStr"><is><t>' + "x" * (300 << 20) + "</t></is></c></row>")
    )
    yield "strings.xlsx", spreadsheet(SHEET % "", "<sst>" + "<si><t>a</t></si>" * 5_000_000 + "</sst>")
    yield "deep.xlsx", spreadsheet("<a>" * 2_000_000)
    yield "entities.xlsx", spreadsheet(
        '<!DOCTYPE a [<!ENTITY a "xxxxxxxxxx"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>'
        + SHEET % "<row><c><v>&b;</v></c></row>"
    )
    yield "zeros.xlsx", spreadsheet(bytes(500 << 20))
    yield "no_sheet.xlsx", b"PK\5\6" + bytes(18)


def texts():
    """Names, contents, and whether some images can be used."""
    good = "p.png,3\np2.png,4\np3.png,2\n"
    yield "million.csv", "image,score\n" + "".join(f"{at}.png,3\n" for at in range(1_000_000)), False
    yield "one_missing.csv", "image,score\n" + "gone.png,3\n" * 1_000_000, False
    yield "one_image.csv", "image,score\n" + "p.png,3\n" * 200_000, True
    yield "long_line.csv", "image,score\n" + "x" * (100 << 20), False
    yield "columns.csv", ",".join(f"c{at}" for at in range(500_000)) + "\n", False
    yield "delimiters.csv", "image,score" + "," * 5_000_000 + "\n" + good, True
    yield "quote.csv", 'image,score\n"p.png,3\n' + "a.png,1\n" * 500_000, False
    yield "quotes.csv", "image,score\n" + '"' * 2_000_001, False
    yield "nul.csv", "image,score\np\0.png,3\n" + good, True
    yield "binary.csv", bytes(range(256)) * 4000, False
    yield "empty.csv", "", False
    yield "header.csv", "image,score\n", False
    yield "newlines.csv", "\n" * 5_000_000, False
    yield "carriage_returns.csv", "image,score\r" + good.replace("\n", "\r"), True
    yield "twice.csv", "image,image,score\np.png,p2.png,3\n", False
    yield "scores.csv", "image,score\np.png,nan\np2.png,inf\np3.png,1e999\n", False
    yield "huge_scores.csv", "image,score\np.png,1e300\np2.png,-1e300\np3.png,1e308\n", True
    yield "escape.csv", "image,score\n\x1b[2J.png,3\n" + good, True
    yield "formula.csv", "image,score,group\np.png,3,=1+1\np2.png,4,@x\np3.png,2,+1\n", True
    yield "climbing.csv", "image,score\n../../../../../../etc/passwd,3\n/etc/shadow,4\n" + good, True
    yield "devices.csv", "image,score\n/dev/zero,3\n/dev/stdin,2\nodd/fifo.png,1\nodd/kmsg.png,4\n" + good, True
    yield "groups.csv", "image,score,group\n" + "".join(f"p.png,3,g{at}\n" for at in range(100_000)), True
    yield "split.csv", "image,score,split\np.png,3,tran\n", False
    yield "semicolon.csv", "image;score\n" + good.replace(",", ";"), True
    yield "utf16.csv", ("image,score\n" + good).encode("utf-16"), True
    yield "utf32.csv", ("image,score\n" + good).encode("utf-32"), False
    yield "html.csv", "<html><body>Sign in</body></html>", False
    yield "weights.csv", "image,score,weight\n" + good.replace("\n", ",0\n"), False
    yield "negative_weights.csv", "image,score,weight\n" + good.replace("\n", ",-1\n"), False


def attacks(place):
    for at, name in enumerate(("p.png", "p2.png", "p3.png")):
        place.write(f"tables/{name}", png(32 + at, 32))

    def of(name, usable, command=("data", "check"), dataset="csv", tail=()):
        arguments = (
            *command,
            "small.yaml",
            "--set",
            f"data.dataset={dataset}",
            "--set",
            f"data.root={name}",
            *tail,
        )
        codes = (0, 1, 2) if usable else (1, 2)
        return Attack(
            "tables and datasets", " ".join([*command, dataset, name]), place.command(*arguments), codes=codes
        )

    for name, data, usable in texts():
        place.write(f"tables/{name}", data.encode() if isinstance(data, str) else data)
        yield of(f"tables/{name}", usable)
        yield of(f"tables/{name}", usable, ("train",), tail=("--quiet", "--output", f"tables/{name}_run"))
    for name, data in sheets():
        yield of(place.write(f"tables/{name}", data), False)
        place.write(f"scut/{name}/All_Ratings.xlsx", data)
        place.write(f"scut/{name}/train_test_files/All_labels.txt", b"a.png 3\n")
        place.write(f"scut/{name}/Images/a.png", png())
        yield of(f"scut/{name}", False, dataset="scut_fbp5500", tail=("--set", "data.votes=true"))
    for name in (
        "/dev/zero",
        "odd/fifo.png",
        "odd/kmsg.png",
        "/dev/stdin",
        "/proc",
        "/",
        "nowhere",
        "small.yaml",
        "p.png",
    ):
        yield of(name, False)
        if name != "/":
            yield of(name, False, dataset="folder")
    yield of(place.sparse("tables/sparse.csv", 1 << 40, b"image,score\n"), False)
    place.path("many/3/x").parent.mkdir(parents=True, exist_ok=True)
    for at in range(5000):
        (place.path("many/3/x").parent / f"{at}.png").symlink_to("../../tables/p.png")
    (place.folder / "many/3/loop").symlink_to("..")
    yield of("many", True, dataset="folder")
    deep = place.folder / "deep"
    for _ in range(300):
        deep = deep / "d"
    deep.mkdir(parents=True)
    yield of("deep", False, dataset="folder")
