"""Natural gradient and TRPO: steps measured in how much the policy changes, not its weights.

Both solve ``F x = g`` by conjugate gradient with products ``F v`` only, which cost two backward passes each: this suits
small policies. Both change the parameters in place. They take the objective and the divergence as functions without
arguments that evaluate the current policy.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from llm_agents.runtime.errors import UserError

Closure = Callable[[], Tensor]


def natural_gradient_step(
    parameters: Iterable[Parameter],
    objective: Closure,
    kl: Closure,
    max_kl: float,
    damping: float = 0.1,
    num_cg_steps: int = 10,
) -> dict[str, float]:
    """Take one step of natural gradient ascent (Kakade, 2001) of a size that changes the policy by ``max_kl``.

    ``theta <- theta + sqrt(2 max_kl / (g^T F^-1 g)) F^-1 g``

    where ``g`` is the objective's gradient and ``F`` the Hessian of the divergence, which is the Fisher matrix. The
    size is right to second order; nothing checks it.

    Args:
        parameters: the policy's.
        objective: a scalar to be increased, such as the mean of ``log_probs * advantages``.
        kl: the mean of KL(old || policy), the old policy's probabilities held fixed; zero when called first.
        max_kl: the trust region's radius in nats.
        damping: added to the diagonal of F, which is singular where the data say nothing.
        num_cg_steps: steps of conjugate gradient.

    Returns:
        The metrics ``loss/policy`` (before the step, negated) and ``policy/kl`` (after it).

    Raises:
        UserError: the gradient is not finite.
    """
    chosen = list(parameters)
    before = objective()
    step = _natural_step(chosen, before, kl, max_kl, damping, num_cg_steps)
    vector_to_parameters(parameters_to_vector(chosen).detach() + step, chosen)
    with torch.no_grad():
        return {"loss/policy": -before.item(), "policy/kl": kl().item()}


def trpo_step(
    parameters: Iterable[Parameter],
    surrogate: Closure,
    kl: Closure,
    max_kl: float = 0.01,
    damping: float = 0.1,
    num_cg_steps: int = 10,
    num_backtracks: int = 10,
    backtrack: float = 0.8,
) -> dict[str, float]:
    """Take one step of trust region policy optimization (Schulman et al., ICML 2015, section 6 and appendix C).

    ``max_theta E[pi(a|s) / pi_old(a|s) * A]  subject to  E[KL(pi_old || pi)] <= max_kl``

    The natural gradient step is shortened until the surrogate has grown and the constraint holds. If that never
    happens, the parameters stay as they were.

    Args:
        surrogate: the mean of ``ratio * advantages``.
        parameters, kl, max_kl, damping, num_cg_steps: as in `natural_gradient_step`.
        num_backtracks, backtrack: how often the step is shortened, and by what factor each time.

    Returns:
        The metrics of `natural_gradient_step`, and ``policy/step_fraction``: how much of the step was taken, or 0.

    Raises:
        UserError: the gradient is not finite.
    """
    chosen = list(parameters)
    before = surrogate()
    step = _natural_step(chosen, before, kl, max_kl, damping, num_cg_steps)
    start = parameters_to_vector(chosen).detach().clone()
    for attempt in range(num_backtracks + 1):
        fraction = backtrack**attempt
        vector_to_parameters(start + fraction * step, chosen)
        with torch.no_grad():
            divergence = kl().item()
            if divergence <= max_kl and surrogate() > before:
                return {"loss/policy": -before.item(), "policy/kl": divergence, "policy/step_fraction": fraction}
    vector_to_parameters(start, chosen)
    return {"loss/policy": -before.item(), "policy/kl": 0.0, "policy/step_fraction": 0.0}


def conjugate_gradient(product: Callable[[Tensor], Tensor], target: Tensor, num_steps: int) -> Tensor:
    """Solve ``A x = target`` approximately for a symmetric positive definite ``A`` (Hestenes and Stiefel, 1952).

    Args:
        product: ``A v`` for a vector ``v``, (D,) -> (D,).
        target: (D,).
        num_steps: D steps would be exact in exact arithmetic.
    """
    solution = torch.zeros_like(target)
    residual, direction = target.clone(), target.clone()
    norm = residual @ residual
    tolerance = torch.finfo(target.dtype).eps * norm
    for _ in range(num_steps):
        if norm <= tolerance:
            break
        image = product(direction)
        size = norm / (direction @ image)
        solution += size * direction
        residual -= size * image
        norm, previous = residual @ residual, norm
        direction = residual + norm / previous * direction
    return solution


def _natural_step(
    parameters: list[Parameter], objective: Tensor, kl: Closure, max_kl: float, damping: float, num_cg_steps: int
) -> Tensor:
    gradient = _flat_gradient(objective, parameters)
    if not gradient.isfinite().all():
        raise UserError("the gradient of the policy's objective is not finite")
    slope = _flat_gradient(kl(), parameters, retain_graph=True, create_graph=True)

    def fisher_product(vector: Tensor) -> Tensor:
        return _flat_gradient(slope @ vector, parameters, retain_graph=True) + damping * vector

    direction = conjugate_gradient(fisher_product, gradient, num_cg_steps)
    curvature = (direction @ fisher_product(direction)).item()
    # Without anything to learn, as when all advantages are zero, the direction is zero, and so is the step.
    return direction * math.sqrt(2 * max_kl / curvature) if curvature > 0 else torch.zeros_like(gradient)


def _flat_gradient(
    scalar: Tensor, parameters: list[Parameter], retain_graph: bool = False, create_graph: bool = False
) -> Tensor:
    """Return the gradient as one vector (D,), zero for parameters that the scalar does not depend on."""
    gradients = torch.autograd.grad(
        scalar,
        parameters,
        retain_graph=retain_graph,
        create_graph=create_graph,
        allow_unused=True,
        materialize_grads=True,
    )
    return torch.cat([gradient.reshape(-1) for gradient in gradients])
