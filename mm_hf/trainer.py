"""What training adds to the library's tools: parameter groups."""

from typing import Any

from torch import nn

from .models.modeling_mm_fusion import MMFusionPreTrainedModel


def parameter_groups(
    model: MMFusionPreTrainedModel,
    learning_rate: float,
    weight_decay: float = 0.0,
    learning_rates: dict[str, float] | None = None,
) -> list[dict[str, Any]]:
    """Groups the parameters that train by module and by whether they decay, for an optimizer.

    New modules learn faster than pretrained ones (METER, Dou et al. 2022: five times), and biases, norms, gates and
    other vectors do not decay.

    Args:
        model: a model of mm_hf.
        learning_rate: of all modules that are not named otherwise.
        weight_decay: of matrices.
        learning_rates: by module: the name of a modality for its encoder (`"vision"`), or the beginning of parameter
            names within the base model (`"fusion"`, `"projections.text"`). The longest that fits counts.

    Returns:
        dicts with `params`, `lr`, `weight_decay` and, to tell them apart, `name`.

    Raises:
        ValueError: a module without any parameter, so probably misspelt.
    """
    base, prefix = model.base_model, ""
    if base is not model:
        prefix = model.base_model_prefix + "."
    scopes = {
        f"{prefix}encoders.{name}." if name in base.config.modalities else f"{prefix}{name}": (name, rate)
        for name, rate in (learning_rates or {}).items()
    }
    names = [name for name, _ in model.named_parameters()]
    for scope, (module, _) in scopes.items():
        if not any(name.startswith(scope) for name in names):
            children = [*base.config.modalities, *(name for name, _ in base.named_children())]
            raise ValueError(f"No parameter belongs to {module!r}: known modules are {children}.")
    norms = {
        f"{path}.{name}" if path else name
        for path, module in model.named_modules()
        if "norm" in type(module).__name__.lower() or isinstance(module, nn.Embedding)
        for name, _ in module.named_parameters(recurse=False)
    }
    groups: dict[tuple[str, bool], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        scope = max((scope for scope in scopes if name.startswith(scope)), key=len, default=None)
        module, rate = ("all", learning_rate) if scope is None else scopes[scope]
        decays = parameter.ndim > 1 and name not in norms
        group = groups.setdefault(
            (module, decays),
            {
                "params": [],
                "lr": rate,
                "weight_decay": weight_decay if decays else 0.0,
                "name": f"{module}, {'decay' if decays else 'no decay'}",
            },
        )
        group["params"].append(parameter)
    return list(groups.values())
