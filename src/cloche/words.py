"""Other libraries' names and this one's for the same thing: the tables behind "there is no such argument, attribute or
site"."""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import ParamSpec, TypeVar

from cloche.errors import ArgumentInvalid, ClocheError

# Keyword arguments of transformers, TransformerLens and nnsight; each hint ends a sentence that begins "there is no
# argument ...".
ARGUMENTS: dict[str, str] = {
    "input_ids": "give the ids, or a text, as the first argument",
    "inputs": "give the ids, or a text, as the first argument",
    "input": "give the ids, or a text, as the first argument",
    "text": "give the text as the first argument",
    "tokens": "give the ids as the first argument",
    "inputs_embeds": "put vectors into the residual stream with edits=[sites.embed.replace(vectors)]",
    "attention_mask": "give pad=[...], the number of left padding tokens of each row",
    "position_ids": "give pad=[...], the number of left padding tokens of each row",
    "labels": "glass.loss(text) gives the loss",
    "past_key_values": "cloche.decode.Session keeps the keys and values of the tokens it was fed",
    "use_cache": "generation always keeps keys and values, run never does",
    "use_past_kv_cache": "generation always keeps keys and values",
    "output_hidden_states": "save them with save=[sites.resid_post.all]",
    "hidden_states": "save them with save=[sites.resid_post.all]",
    "output_attentions": "save them with save=[sites.pattern.all]",
    "attentions": "save them with save=[sites.pattern.all]",
    "output_scores": "logprobs=True keeps each new token's log-probability",
    "output_logits": "run(...).logits are the logits of a prompt, and logprobs=True keeps those of new tokens",
    "return_dict": "run returns a Result; generate returns text for text, and a Generation for ids",
    "return_dict_in_generate": "generate returns a Generation if the prompt is ids",
    "return_type": "run returns a Result with .logits, and glass.loss(text) the loss",
    "names_filter": "name the sites to save with save=[...]",
    "fwd_hooks": "change a site with edits=[sites.resid_post[3].apply(function)]",
    "hooks": "change a site with edits=[sites.resid_post[3].apply(function)]",
    "stop_at_layer": "logits=False stops after the last layer that is saved",
    "remove_batch_dim": "take row 0 of the saved value",
    "prepend_bos": "a text is encoded as its tokenizer.json says, with nothing added; give ids to start with another token",
    "add_special_tokens": "glass.tokenizer.encode(text, special=False) leaves out what its tokenizer.json adds",
    "padding_side": "texts of unequal length are padded on the left",
    "max_new_tokens": "new= is how many tokens to write",
    "max_tokens": "new= is how many tokens to write",
    "max_length": "new= is how many tokens to write, the prompt not counted",
    "min_new_tokens": "generation ends at stop= or after new= tokens",
    "min_length": "generation ends at stop= or after new= tokens",
    "do_sample": "temperature=0 takes the most likely token, and any above 0 samples",
    "k": "next_tokens lists the top= most likely tokens, and generate samples from the top_k= most likely",
    "num_beams": "tokens are sampled one at a time; there is no beam search",
    "num_return_sequences": "repeat the prompt in a list, as in [text] * 5",
    "eos_token_id": "stop= takes token ids and texts",
    "stop_at_eos": "a text ends at its end-of-text token; stop= names other ends",
    "stop_strings": "stop= takes token ids and texts",
    "stopping_criteria": "stop= takes token ids and texts, or a function of the new tokens",
    "pad_token_id": "give pad=[...], the number of left padding tokens of each row",
    "bos_token_id": "begin the prompt with the token",
    "generator": "seed= fixes the sampling",
    "repetition_penalty": "change the logits with edits=[sites.logits.apply(function)]",
    "freq_penalty": "change the logits with edits=[sites.logits.apply(function)]",
    "logits_processor": "change the logits with edits=[sites.logits.apply(function)]",
    "streamer": "cloche.decode.stream gives one token at a time",
    "verbose": "nothing is printed",
    "revision": 'name it in the text: "hf://owner/name@revision"',
    "torch_dtype": 'dtype="float32", "bfloat16", "float16" or "auto"',
    "device_map": "a model is loaded on the CPU; glass.net.to(device) moves it",
    "device": "a model is loaded on the CPU; glass.net.to(device) moves it",
    "trust_remote_code": "code in a model's folder is never run",
    "load_in_8bit": "weights are float32, bfloat16 or float16: dtype=",
    "load_in_4bit": "weights are float32, bfloat16 or float16: dtype=",
    "tokenizer": "the tokenizer.json beside the weights, or the run's, is used",
}
# Attributes and methods of their models; each hint ends a sentence that begins "it has no attribute ...".
ATTRIBUTES: dict[str, str] = {
    "run_with_cache": "run(prompt, save=[sites.resid_post.all]) gives a Result with .logits and what was saved",
    "run_with_hooks": "run(prompt, edits=[sites.resid_post[3].apply(function)]) changes a site",
    "add_hook": "run(prompt, edits=[sites.resid_post[3].apply(function)]) changes a site",
    "logit_lens": "cloche.interp.logit_lens(glass, prompt) is the lens",
    "hook_points": "sites lists them",
    "hook_dict": "sites lists them",
    "trace": "run(prompt, save=[...], edits=[...]) saves and changes sites",
    "scan": "run(prompt, save=[...], edits=[...]) saves and changes sites",
    "invoke": "run(prompt, save=[...], edits=[...]) saves and changes sites",
    "to_tokens": "glass.ids(text) gives the ids and their padding",
    "to_str_tokens": "glass.tokens(text) gives the tokens of a text",
    "to_string": "glass.tokenizer.decode(ids) gives their text",
    "to_single_token": "glass.tokenizer.encode(text) gives the ids",
    "encode": "glass.ids(text) gives the ids, and glass.tokenizer.encode(text) a list",
    "decode": "glass.tokenizer.decode(ids) gives their text",
    "cfg": "net.spec describes the model",
    "config": "net.spec describes the model",
    "blocks": "net.layers are the blocks",
    "model": "net is the network, and net.layers are its blocks",
    "transformer": "net is the network, and net.layers are its blocks",
    "h": "net.layers are the blocks",
    "layers": "net.layers are the blocks",
    "lm_head": "net.unembed is the head",
    "unembed_matrix": "net.unembed_weight() is the head's matrix",
    "W_U": "net.unembed_weight() is the head's matrix, [vocab, width]",
    "W_E": "net.embed.weight is the embedding, [vocab, width]",
    "W_pos": "net.position.weight are the learned positions",
    "W_Q": "net.layers[i].mix.qkv.weight holds q, k and v, in the rows of net.blocks(name)",
    "W_K": "net.layers[i].mix.qkv.weight holds q, k and v, in the rows of net.blocks(name)",
    "W_V": "net.layers[i].mix.qkv.weight holds q, k and v, in the rows of net.blocks(name)",
    "W_O": "net.layers[i].mix.out.weight is the output matrix",
    "W_in": "net.layers[i].map.inner.weight is the MLP's first matrix",
    "W_out": "net.layers[i].map.outer.weight is the MLP's second matrix",
    "hidden_states": 'result["resid_post.all"], once saved, are the residual streams after each layer',
    "attentions": 'result["pattern.all"], once saved, are the attention patterns',
    "last_hidden_state": 'result["final_norm"], once saved, is what the head reads',
    "past_key_values": "cloche.decode.Session keeps the keys and values of the tokens it was fed",
    "loss": "glass.loss(text) gives the loss",
    "sequences": ".ids are the prompt and the new tokens",
    "scores": ".logprobs are the log-probabilities of the new tokens, if logprobs=True was given",
    "forward": "run(prompt).logits are the logits",
    "from_pretrained": "cloche.load(folder) opens a model",
    "save_pretrained": "cloche.model.save_network(glass.net, folder) writes a model",
    "push_to_hub": "cloche.model.save_network(glass.net, folder) writes a folder that the hub takes",
    "device": "next(glass.net.parameters()).device is where it is",
    "dtype": "next(glass.net.parameters()).dtype is its dtype",
    "to": "glass.net.to(device) moves the network",
    "cuda": 'glass.net.to("cuda") moves the network',
    "cpu": 'glass.net.to("cpu") moves the network',
    "eval": "a Glass is always in evaluation mode",
    "parameters": "glass.net.parameters() are the weights",
    "named_parameters": "glass.net.named_parameters() are the weights",
    "state_dict": "glass.net.state_dict() are the weights",
    "num_parameters": "sum(p.numel() for p in glass.net.parameters())",
}

# Other libraries' names for edits of a site; each hint ends a sentence that begins "a site has no method ...".
EDITS: dict[str, str] = {
    "heads": ".head(1) is one head",
    "ablate": ".zero() puts zeros there, and .mean() its mean",
    "zero_ablate": ".zero() puts zeros there",
    "mean_ablate": ".mean() puts its mean there",
    "set": ".replace(value) puts a value there",
    "patch": ".replace(result) puts there the value that another run saved",
    "steer": ".add(vector) adds a vector",
    "multiply": ".scale(factor) multiplies",
    "mul": ".scale(factor) multiplies",
    "hook": ".apply(function) changes it by a function",
    "register_forward_hook": ".apply(function) changes it by a function",
    "save": "name it in run(prompt, save=[...])",
    "output": "name it in run(prompt, save=[...])",
}

# Names that are close to one of our sites but not read as it (those that are read: `model/sites/dialects.py`).
IN_A_BLOCK = {  # the text after a layer's number
    "": "resid_post",
    "hook_attn_in": "resid_pre",
    "hook_mlp_in": "resid_mid",
    "ln1.hook_normalized": "attn_in",
    "ln2.hook_normalized": "mlp_in",
    "ln_1": "attn_in",
    "ln_2": "mlp_in",
    "input_layernorm": "attn_in",
    "post_attention_layernorm": "mlp_in",
    "attn": "attn_out",
    "attention": "attn_out",
    "self_attn": "attn_out",
    "self_attn.o_proj": "attn_out",
    "mlp": "mlp_out",
    "mlp.act_fn": "mlp_act",
    "mlp.down_proj": "mlp_out",
    "mlp.gate": "router",
    "block_sparse_moe": "mlp_out",
}
IN_THE_MODEL = {
    "model.embed_tokens": "embed",
    "transformer.wte": "embed",
    "gpt_neox.embed_in": "embed",
    "ln_final.hook_normalized": "final_norm",
    "model.norm": "final_norm",
    "transformer.ln_f": "final_norm",
    "gpt_neox.final_layer_norm": "final_norm",
    "lm_head": "logits",
    "embed_out": "logits",
    "unembed": "logits",
    "hidden_states": "resid_post.all",
    "attentions": "pattern.all",
}


Given = ParamSpec("Given")
Made = TypeVar("Made")


def with_hints(function: Callable[Given, Made], also: Sequence[str] = ()) -> Callable[Given, Made]:
    """Decorator: an unknown keyword argument raises an error with the right name. also: names accepted by the function's
    **."""
    known = [
        *(name for name, p in inspect.signature(function).parameters.items() if p.kind is not p.VAR_KEYWORD),
        *also,
    ]
    known = [name for name in known if name != "self"]

    @functools.wraps(function)
    def call(*given: Given.args, **named: Given.kwargs) -> Made:
        if named:
            check_arguments(function.__name__, named, known)
        return function(*given, **named)

    return call


class NoAttribute(ClocheError, AttributeError):
    """A missing attribute: an AttributeError, so that `hasattr` works, with a sentence for people."""


def no_attribute(thing: str, name: str, known: Sequence[str], theirs: Mapping[str, str] = ATTRIBUTES) -> NoAttribute:
    """The error for an attribute that `thing` lacks, with this library's name for it if another library has it."""
    if name in theirs:
        return NoAttribute(f"A {thing} has no attribute {name!r}; {theirs[name]}.")
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"it has {', '.join(n for n in known if not n.startswith('_'))}."
    return NoAttribute(f"A {thing} has no attribute {name!r}; {hint}")


def check_arguments(function: str, given: Iterable[str], known: Sequence[str]) -> None:
    """Raise for the first keyword argument that a function does not take, with the right name for it."""
    for name in given:
        if name in known:
            continue
        close = difflib.get_close_matches(name, known, n=1)
        if name in ARGUMENTS:
            hint = ARGUMENTS[name]
        elif close:
            hint = f"did you mean {close[0]}=?"
        else:
            hint = f"it takes {', '.join(f'{k}=' for k in known)}"
        raise ArgumentInvalid(
            f"{function} has no argument {name!r}; {hint.rstrip('.')}{'' if hint.endswith('?') else '.'}"
        )
