"""The one list of what a config.json may say without changing a logit. Whatever is neither here nor read by its family is
refused by name.

Held against transformers' own modelling code for the families read here: none of these is used on the way from ids to logits
when a model is evaluated.
"""

from __future__ import annotations

from typing import Any

IDENTITY = """
    _name_or_path architectures auto_map cloche custom_pipelines dtype finetuned_from is_llama_config license model_name
    model_type name_or_path num_steps tokenizer_class torch_dtype transformers.js_config transformers_version unsloth_fixed
    unsloth_version
"""
TRAINING = """
    activation_dropout attention_dropout attention_probs_dropout_prob attn_pdrop classifier_dropout dropout embd_pdrop
    embedding_dropout finetuning_task gradient_checkpointing hidden_dropout hidden_dropout_prob initializer_factor
    initializer_range label_smoothing layerdrop load_balancing_coef output_router_logits resid_pdrop router_aux_loss_coef
    router_jitter_noise router_z_loss_coef use_gradient_checkpointing
"""
TOKENS = """
    begin_suppress_tokens bos_token_id cls_token_id decoder_start_token_id eos_token_id eos_token_ids forced_bos_token_id
    forced_eos_token_id mask_token_id model_max_length pad_token_id sep_token_id suppress_tokens unk_token_id
"""
GENERATION = """
    bad_words_ids cache_implementation diversity_penalty do_sample early_stopping encoder_no_repeat_ngram_size
    exponential_decay_length_penalty generation_config length_penalty max_length max_new_tokens min_length no_repeat_ngram_size
    num_beam_groups num_beams num_return_sequences prefix remove_invalid_values repetition_penalty temperature top_k top_p
    typical_p
"""
CLASSIFYING = """
    id2label label2id num_labels problem_type summary_activation summary_first_dropout summary_last_dropout
    summary_proj_to_labels summary_type summary_use_proj task_specific_params
"""
COMPUTING = """
    attn_implementation experts_implementation is_decoder low_cpu_mem_usage output_attentions output_hidden_states output_past
    output_scores pretraining_tp reorder_and_upcast_attn return_dict return_dict_in_generate tf_legacy_loss torchscript
    use_bfloat16 use_cache use_flash_attention use_flash_attention_2 use_flash_attn use_return_dict xla_device
"""  # how it is computed or what comes back beside the logits; the logits differ by rounding alone
LENGTHS = (
    "max_seq_len max_sequence_length n_ctx seq_length sliding_window_size"  # repeated under names that nothing reads
)
IGNORED = frozenset(" ".join((IDENTITY, TRAINING, TOKENS, GENERATION, CLASSIFYING, COMPUTING, LENGTHS)).split())

# Fields of other families, and of encoders, at the values that mean "without". A family that reads one takes any value.
OFF: dict[str, tuple[Any, ...]] = {
    "add_cross_attention": (False,),
    "attention_bias": (False,),
    "attn_logit_softcapping": (None,),
    "chunk_size_feed_forward": (0, None),
    "clip_qkv": (None,),
    "cross_attention_hidden_size": (None,),
    "final_logit_softcapping": (None,),
    "full_attn_mod": (1,),
    "interpolate_factor": (1,),
    "is_causal": (True,),
    "is_encoder_decoder": (False,),
    "layer_types": (None,),
    "lm_head_bias": (False,),
    "mlp_bias": (False,),
    "partial_rotary_factor": (1, None),
    "pruned_heads": ({}, None),
    "qkv_bias": (False,),
    "quantization_config": (None,),
    "rope_interleaved": (False,),
    "rope_scaling": (None,),
    "shared_expert_intermediate_size": (0, None),
    "sliding_window": (None,),
    "tie_encoder_decoder": (False,),
    "use_bidirectional_attention": (False, None),
    "use_mrope": (False,),
    "use_qk_norm": (False, None),
    "use_sliding_window": (False,),
}
