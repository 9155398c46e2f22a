"""The registry of promoted heads: a folder with a head under each fingerprint, put there before the ledger names it.

Settings enter; the head that labels leaves, or a folder of the registry. Never changes a head that is there.
"""

from dataclasses import dataclass, replace

from robert_pipeline.config import Settings
from robert_pipeline.core.examples import Integers
from robert_pipeline.core.model import TrainedHead
from robert_pipeline.errors import ModelError
from robert_pipeline.storage.files import Files, copy_folder
from robert_pipeline.storage.heads import has_head, load_head, save_head
from robert_pipeline.storage.promotions import Promotion, read_ledger, standing
from robert_pipeline.storage.warehouse import open_warehouse


@dataclass(frozen=True, kw_only=True, slots=True)
class CurrentHead:
    """The folder of the head that labels, and the entry that made it the current one; None where `model` names it."""

    model: str
    promotion: Promotion | None


def current_head(settings: Settings) -> CurrentHead:
    """The head that labels. Raises ModelError where the promoted one is not in the registry."""
    unpromoted = CurrentHead(model=settings.model, promotion=None)
    if settings.labelled_by == "model":
        return unpromoted
    promoted = standing(read_ledger(open_warehouse(settings.warehouse)))
    if not promoted:
        return unpromoted
    folder = registered(settings, promoted[-1].head_fingerprint)
    return CurrentHead(model=folder, promotion=promoted[-1])


def with_current_head(settings: Settings) -> Settings:
    """The same settings with `model` naming the head that labels: a promotion later in the run changes nothing."""
    return replace(settings, model=current_head(settings).model, labelled_by="model")


def registry_folder(settings: Settings, head_fingerprint: str) -> str:
    """Where the registry has, or would have, a head."""
    return f"{settings.registry.rstrip('/')}/{head_fingerprint}"


def registered(settings: Settings, head_fingerprint: str) -> str:
    """The folder of a promoted head. Raises ModelError where it is not there, or is another."""
    folder = registry_folder(settings, head_fingerprint)
    if not has_head(folder):
        raise ModelError(
            f"the promoted head {head_fingerprint} is not at {folder}",
            fix="Set `registry` to the folder that was in use when it was promoted, or name a head with --model",
        )
    if (found := load_head(folder).fingerprint) != head_fingerprint:
        raise ModelError(f"{folder} holds head {found}", fix="Put the promoted head back")
    return folder


def register_head(settings: Settings, model: str, head: TrainedHead, learned_keys: Integers | None) -> str:
    """Put the head of folder `model` into the registry, unless it is there; gives its folder there.

    An encoder that lies in the head's folder goes with it: the next training may write another one in its place.
    Raises ModelError or StoreError.
    """
    folder = registry_folder(settings, head.fingerprint)
    if not has_head(folder):
        source, target = Files(model), Files(folder)
        inside = head.origin.encoder.name.removeprefix(f"{source.full_path('').rstrip('/')}/")
        if inside != head.origin.encoder.name:
            if not target.is_local:
                raise ModelError(
                    f"the encoder of head {head.fingerprint} lies in its folder and is loaded from a disk, which "
                    f"registry {settings.registry} is not",
                    fix="Set `registry` to a folder that all machines share",
                )
            copy_folder(source, target, inside)
            origin = replace(head.origin, encoder=replace(head.origin.encoder, name=target.full_path(inside)))
            head = replace(head, origin=origin)
        # Last: a head that is there is whole.
        save_head(folder, head, learned_keys=learned_keys)
    return registered(settings, head.fingerprint)
