"""The statuses of images, and where users read of them."""

from __future__ import annotations

import re

from support.paths import ROOT

from bottleneck.images import statuses

_PAGE = ROOT / "docs" / "features-table.md"


def test_every_status_is_a_constant_of_its_name() -> None:
    constants = {name: value for name, value in vars(statuses).items() if name.isupper()}
    del constants["STATUSES"]
    assert constants == {status.upper(): status for status in statuses.STATUSES}


def test_the_page_on_the_table_explains_every_status() -> None:
    section = _PAGE.read_text().partition("### Statuses\n")[2].partition("\n#")[0]
    explained = re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)
    assert explained == [s for s in statuses.STATUSES if s != statuses.UNAVAILABLE]
    # These have no row, so that the table of the rows' statuses does not list them.
    assert f"`{statuses.UNAVAILABLE}`" in section
