"""Gradient checkpointing: activations of a layer are computed again in the backward pass, and not kept till then."""

from __future__ import annotations

from transformers import PreTrainedModel


def set_gradient_checkpointing(model: PreTrainedModel, wanted: bool) -> None:
    """Switch it on or off, under the name that this version of transformers has for it.

    Raises ValueError if it is wanted and the model cannot do it.
    """
    kind = "activation" if hasattr(model, "activation_checkpointing_enable") else "gradient"  # 5.23 has new names
    if wanted:
        getattr(model, f"{kind}_checkpointing_enable")({"use_reentrant": False})
    elif getattr(model, f"is_{kind}_checkpointing"):
        getattr(model, f"{kind}_checkpointing_disable")()
