# SPDX-License-Identifier: Apache-2.0
"""What a vault's settings say of prices."""

from typing import Annotated

from pydantic import Field

from snapvault.config.strict import Shape
from snapvault.config.values import AnyStorageClass, SomeText
from snapvault.model.prices import ClassPrices, OwnPrices

# A number that is far above any price shows a unit that was mistaken.
Price = Annotated[float, Field(ge=0, le=1000, allow_inf_nan=False)]


class ClassPricesShape(Shape):
    """Prices of a storage class."""

    storage: Price
    """A GB stored for a month."""
    put: Price = 0.0
    """1,000 PUT, COPY, POST and LIST requests."""
    get: Price = 0.0
    """1,000 GET and HEAD requests."""
    retrieval: Price = 0.0
    """A GB read."""
    minimum_days: Annotated[int, Field(ge=0, le=3650)] = 0
    """Days that are paid for however early an object is deleted."""
    minimum_kib: Annotated[int, Field(ge=0, le=1048576)] = 0
    """KiB that are paid for however small an object is."""


class PricesShape(Shape):
    """Prices of a store, in place of listed ones."""

    currency: SomeText | None = None
    """What prices are in; left out: USD."""
    egress: Price | None = None
    """A GB that leaves the store; left out: as listed."""
    source: SomeText | None = None
    """Where these prices are from, to be shown with them."""
    classes: dict[AnyStorageClass, ClassPricesShape] = Field(default_factory=dict)
    """Prices by storage class; those left out are as listed."""


def own_prices(shape: PricesShape | None) -> OwnPrices | None:
    """Return what a shape says."""
    if shape is None:
        return None
    return OwnPrices(
        currency=shape.currency,
        egress=shape.egress,
        source=shape.source,
        classes={name: _class(each) for name, each in shape.classes.items()},
    )


def _class(shape: ClassPricesShape) -> ClassPrices:
    return ClassPrices(
        storage=shape.storage,
        put=shape.put,
        get=shape.get,
        retrieval=shape.retrieval,
        minimum_days=shape.minimum_days,
        minimum_size=shape.minimum_kib << 10,
    )
