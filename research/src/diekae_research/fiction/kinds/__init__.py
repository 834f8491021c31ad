"""The kinds of documents, one file a kind."""

from diekae_research.fiction.kind import Kind
from diekae_research.fiction.kinds.book import BOOK
from diekae_research.fiction.kinds.bridge import BRIDGE
from diekae_research.fiction.kinds.company import COMPANY
from diekae_research.fiction.kinds.expedition import EXPEDITION
from diekae_research.fiction.kinds.festival import FESTIVAL
from diekae_research.fiction.kinds.museum import MUSEUM
from diekae_research.fiction.kinds.painting import PAINTING
from diekae_research.fiction.kinds.person import PERSON
from diekae_research.fiction.kinds.ship import SHIP
from diekae_research.fiction.kinds.species import SPECIES
from diekae_research.fiction.kinds.tower import TOWER
from diekae_research.fiction.kinds.town import TOWN

KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        *(PERSON, TOWN, TOWER, BRIDGE, MUSEUM, SHIP),
        *(BOOK, PAINTING, FESTIVAL, COMPANY, SPECIES, EXPEDITION),
    )
}

__all__ = ["KINDS"]
