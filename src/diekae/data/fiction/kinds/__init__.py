"""The kinds of documents, one file a kind."""

from diekae.data.fiction.kind import Kind
from diekae.data.fiction.kinds.book import BOOK
from diekae.data.fiction.kinds.bridge import BRIDGE
from diekae.data.fiction.kinds.company import COMPANY
from diekae.data.fiction.kinds.expedition import EXPEDITION
from diekae.data.fiction.kinds.festival import FESTIVAL
from diekae.data.fiction.kinds.museum import MUSEUM
from diekae.data.fiction.kinds.painting import PAINTING
from diekae.data.fiction.kinds.person import PERSON
from diekae.data.fiction.kinds.ship import SHIP
from diekae.data.fiction.kinds.species import SPECIES
from diekae.data.fiction.kinds.tower import TOWER
from diekae.data.fiction.kinds.town import TOWN

KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        *(PERSON, TOWN, TOWER, BRIDGE, MUSEUM, SHIP),
        *(BOOK, PAINTING, FESTIVAL, COMPANY, SPECIES, EXPEDITION),
    )
}

__all__ = ["KINDS"]
