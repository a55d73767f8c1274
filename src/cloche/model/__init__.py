"""Models: parts and the modules they build, sites, edits, plans, and checkpoints in and out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cloche.lazy import lazy

if TYPE_CHECKING:
    from cloche.model.bodies.body import Body, Iterated
    from cloche.model.bodies.stack import Block, ParallelBlock, Stack
    from cloche.model.context import Context
    from cloche.model.declare import Declared, Linear, Module, freeze
    from cloche.model.feedback import fed_back, linear_maps, with_feedback
    from cloche.model.huggingface import load_network, save_network, weight_files
    from cloche.model.initialisation import FanIn, Initialisation, MuP, Normal, Orthogonal, Xavier
    from cloche.model.lm import LM, Head, Unembed
    from cloche.model.maps.activations import ACTIVATIONS, Shifted, activation, activation_range, gain
    from cloche.model.maps.mlp import GLU, MLP, ClampedGLU, Gates, Map
    from cloche.model.maps.moe import MoE
    from cloche.model.mixers.attention import Attention, Mixer
    from cloche.model.mixers.masks import Causal, Full, Mask, Prefix, Window
    from cloche.model.mixers.scored import ScoredAttention
    from cloche.model.network import Network
    from cloche.model.norms import AllHeads, LayerNorm, NoNorm, Norm, RectifiedNorm, RMSNorm, ZeroCenteredRMSNorm
    from cloche.model.passes.caches import read_cache
    from cloche.model.passes.neurons import HiddenLayer, Kept, hidden_layers, keep_neurons
    from cloche.model.passes.stored import StoredActivations
    from cloche.model.positions.encodings import EmbeddingPosition, Learned, NoPosition, Position, RoPE, rotate
    from cloche.model.positions.scalings import DynamicScaling, LinearScaling, Llama3Scaling, LongRoPE, Scaling, YaRN
    from cloche.model.sites.edits import Edit
    from cloche.model.sites.plan import Plan
    from cloche.model.sites.result import Result
    from cloche.model.sites.vocabulary import Layers, Site, Sites, site
    from cloche.part import Part, part_from_dict

__all__ = [
    "ACTIVATIONS",
    "GLU",
    "LM",
    "MLP",
    "AllHeads",
    "Attention",
    "Block",
    "Body",
    "Causal",
    "ClampedGLU",
    "Context",
    "Declared",
    "DynamicScaling",
    "Edit",
    "EmbeddingPosition",
    "FanIn",
    "Full",
    "Gates",
    "Head",
    "HiddenLayer",
    "Initialisation",
    "Iterated",
    "Kept",
    "LayerNorm",
    "Layers",
    "Learned",
    "Linear",
    "LinearScaling",
    "Llama3Scaling",
    "LongRoPE",
    "Map",
    "Mask",
    "Mixer",
    "MoE",
    "Module",
    "MuP",
    "Network",
    "NoNorm",
    "NoPosition",
    "Norm",
    "Normal",
    "Orthogonal",
    "ParallelBlock",
    "Part",
    "Plan",
    "Position",
    "Prefix",
    "RMSNorm",
    "RectifiedNorm",
    "Result",
    "RoPE",
    "Scaling",
    "ScoredAttention",
    "Shifted",
    "Site",
    "Sites",
    "Stack",
    "StoredActivations",
    "Unembed",
    "Window",
    "Xavier",
    "YaRN",
    "ZeroCenteredRMSNorm",
    "activation",
    "activation_range",
    "fed_back",
    "freeze",
    "gain",
    "hidden_layers",
    "keep_neurons",
    "linear_maps",
    "load_network",
    "part_from_dict",
    "read_cache",
    "rotate",
    "save_network",
    "site",
    "weight_files",
    "with_feedback",
]

__getattr__ = lazy(__name__)
