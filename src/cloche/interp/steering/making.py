"""Ways of making a steering vector: from contrasting texts, from a dictionary's feature, from a token."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor

from cloche.errors import CorpusEmpty, FeatureUnknown, InstrumentOption, ModelUnsupported, PromptInvalid, SiteUnsuitable
from cloche.interp.attribution.components import token_id
from cloche.interp.circuits.weights import unembedding
from cloche.interp.lenses.affine import JACOBIAN, TUNED, Lens, stream_sites
from cloche.interp.steering.concepts import Concept, ConceptStates
from cloche.interp.steering.vectors import SteeringVector, place_of, unit_of
from cloche.interp.subject import Subject, windows_of
from cloche.sparse import SAE

Method = Literal["mean-difference", "probe", "paired-pca"]
METHODS: tuple[Method, ...] = ("mean-difference", "probe", "paired-pca")
WINDOW, TOKENS = 256, 10_240  # of text, for the unit
ROUNDING = 1e-6  # of the states' norm, by which equal states may differ
SHRINKAGE = 0.1  # of the covariance within the classes towards a multiple of the identity


def steering_vector(
    subject: Subject, concept: Concept, site: str | None = None, method: Method = "mean-difference"
) -> SteeringVector:
    """The direction from a concept's negative texts to its positive ones, in the states at their last tokens.

    method: "mean-difference", mu+ - mu- (the default: in comparisons the best detector, AxBench 2501.17148); "probe", the
    discriminant C^-1 (mu+ - mu-), with the covariance C within the classes shrunk towards a multiple of the identity;
    "paired-pca", the first right singular vector of the differences of the pairs without centring them (centring would take
    out what the differences share, which is the concept). `site`: by default the stream after the middle layer; its
    own mean norm over all texts is the vector's unit. Raises InstrumentOption for "paired-pca" without pairs, and
    PromptInvalid where positive and negative texts have the same states.

    >>> import torch
    >>> from cloche import GLU, LM, Attention, Block, Glass, Stack
    >>> from cloche.interp import Concept, steering_vector
    >>> glass = Glass(LM(64, 32, Stack(2, Block(Attention(4), GLU()))).build(seed=0))
    >>> concept = Concept("ends in 7", ([1, 7], [2, 7], [3, 7]), ([1, 8], [2, 8], [3, 8]))
    >>> vector = steering_vector(glass, concept, "embed")
    >>> difference = glass.net.embed.weight[7] - glass.net.embed.weight[8]
    >>> float(torch.cosine_similarity(vector.direction, difference, dim=0)) > 0.999
    True
    """
    place = place_of(subject.net, site)
    states = ConceptStates(subject, concept, place)
    direction = direction_of(states.positive, states.negative, method)
    card = {
        "method": method,
        "concept": concept.name,
        "checkpoint": subject.checkpoint,
        "positive": len(concept.positive),
        "negative": len(concept.negative),
    }
    return SteeringVector(direction, str(place), states.unit, card)


def direction_of(positive: Tensor, negative: Tensor, method: str) -> Tensor:
    """The direction [width] between two sets of states [text, width]."""
    difference = positive.mean(0) - negative.mean(0)
    apart = difference[None]
    if method == "probe":
        inner = torch.cat([positive - positive.mean(0), negative - negative.mean(0)]).double()
        covariance = inner.T @ inner / len(inner)
        scale = covariance.diagonal().mean()
        identity = torch.eye(len(covariance), dtype=torch.float64)
        shrunk = (1 - SHRINKAGE) * covariance + (SHRINKAGE * scale + 1e-12) * identity
        direction = torch.linalg.solve(shrunk, difference.double()).float()
    elif method == "paired-pca":
        if len(positive) != len(negative):
            raise InstrumentOption(
                f"method=paired-pca needs pairs, and there are {len(positive)} positive and {len(negative)} negative texts; "
                "give equally many, or choose mean-difference."
            )
        apart = positive - negative
        direction = torch.linalg.svd(apart.double(), full_matrices=False).Vh[0].float()
        direction = direction * (1.0 if direction @ difference >= 0 else -1.0)
    elif method == "mean-difference":
        direction = difference
    else:
        raise InstrumentOption(f"method={method!r} is not a way to make a vector; it is one of {', '.join(METHODS)}.")
    if not float(apart.norm(dim=1).max()) > ROUNDING * unit_of(torch.cat([positive, negative])):
        raise PromptInvalid(
            "The positive and negative texts have the same states at this site, so there is no direction between them; choose "
            "a later site, or texts that differ before their last token or in it."
        )
    return direction


@torch.no_grad()
def mean_norm(subject: Subject, site: str, windows: Iterable[Any]) -> float:
    """The mean norm of a site's values on text (`windows`: texts, or batches of ids), which is the unit of vectors that are
    not made from texts. The first 10,240 tokens are read. Raises CorpusEmpty where there are none.

    >>> from cloche import GLU, LM, Attention, Block, Glass, Stack
    >>> from cloche.interp import mean_norm
    >>> glass = Glass(LM(64, 32, Stack(2, Block(Attention(4), GLU()))).build(seed=0))
    >>> unit = mean_norm(glass, "embed", [[[1, 2, 3]]])
    >>> abs(unit - float(glass.net.embed.weight[1:4].norm(dim=1).mean())) < 1e-5
    True
    """
    place, norms, read = place_of(subject.net, site), list[Tensor](), 0
    for ids in windows_of(subject, windows):
        for part in ids.split(WINDOW, dim=1):
            if part.numel() and read < TOKENS:
                values = subject.net.run(part, save=[place], logits=False)[place]
                norms.append(values.float().norm(dim=-1).flatten())
                read += part.numel()
    if not read:
        raise CorpusEmpty("The unit of a steering vector is measured on text, and there is none; give some.")
    return unit_of(torch.cat(norms)[:, None])


def feature_vector(subject: Subject, sae: SAE, index: int, unit: float) -> SteeringVector:
    """The decoder's direction of a feature of an autoencoder, at the site it was trained on.

    >>> from dataclasses import replace
    >>> from cloche import GLU, LM, Attention, Block, Glass, Stack
    >>> from cloche.interp import feature_vector
    >>> from cloche.sparse import SAE
    >>> glass = Glass(LM(64, 32, Stack(2, Block(Attention(4), GLU()))).build(seed=0))
    >>> sae = SAE(32, 64, l0=4)
    >>> sae.trained_on = replace(sae.trained_on, site="resid_post[0]")
    >>> feature_vector(glass, sae, 3, unit=1.0).site
    'resid_post[0]'
    """
    if not 0 <= index < sae.decoder.shape[0]:
        raise FeatureUnknown(f"There is no feature {index}: this dictionary has 0 to {sae.decoder.shape[0] - 1}.")
    if sae.wiring.name != "autoencoder" or not sae.trained_on.site:
        raise InstrumentOption(
            f"{sae!r} is not an autoencoder of a site; steer with one trained by `cloche sae train`."
        )
    site = place_of(subject.net, sae.trained_on.site)
    card = {"method": "feature", "feature": index, "checkpoint": subject.checkpoint}
    vector = SteeringVector(sae.dictionary.atoms[index], str(site), unit, card)
    vector.at(subject.net)  # raises WeightsInvalid for a dictionary of another width
    return vector


def token_vector(
    subject: Subject, token: int | str, site: str | None, unit: float, lens: Lens | None = None
) -> SteeringVector:
    """The direction of the stream that a lens reads as a token: the gradient of its logit, minus the mean over all tokens, at
    a norm's fixed scale. `lens`: without one the logit lens (the head's row with the final norm folded in), else that mapped
    back by the Jacobian lens or the tuned lens. `token`: its id, or the text of one token. Raises InstrumentOption for a text
    of several tokens, and ModelUnsupported for a head or a final norm that is not linear.

    >>> from cloche import GLU, LM, Attention, Block, Glass, Stack
    >>> from cloche.interp import token_vector
    >>> glass = Glass(LM(64, 32, Stack(2, Block(Attention(4), GLU()))).build(seed=0))
    >>> vector = token_vector(glass, 5, "resid_post[0]", unit=1.0)
    >>> int((glass.net.unembed_weight() @ vector.direction).argmax())
    5
    """
    net = subject.net
    place = place_of(net, site)
    if net.sites.shape(place)[place.axes[-1]] != net.embed.weight.shape[1]:
        raise SiteUnsuitable(
            f"A token is read from the stream, and {place} is not as wide; choose one such as resid_post[2]."
        )
    token = token_id(subject, token, "token")
    head = unembedding(net)
    if head is None:
        raise ModelUnsupported(
            "A token has a direction in the stream where a linear head reads it through RMSNorm, LayerNorm or NoNorm; steer "
            "this model with texts instead."
        )
    row = head[token] - head.mean(0)
    if lens is not None:
        lens.check(net)
        sites = [str(each) for each in stream_sites(net)]
        if str(place) not in sites:
            raise SiteUnsuitable(
                f"A lens reads the stream, and {place} is not of it; choose one of {', '.join(sites)}."
            )
        index, maps = sites.index(str(place)), lens.maps[JACOBIAN if JACOBIAN in lens.maps else TUNED]
        if index < len(sites) - 1 and maps.weight is not None:
            row = row + row @ maps.weight[index].to(row)
    card: dict[str, Any] = {"method": "token", "token": token, "checkpoint": subject.checkpoint}
    return SteeringVector(row, str(place), unit, card)
