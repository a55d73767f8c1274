"""Settings in cfg.json of the versions of SAELens, by whether they affect what a trained autoencoder computes."""

from __future__ import annotations

# Read, and either honoured or refused.
_UNDERSTOOD = """
    architecture d_in d_sae d_out dtype device metadata k apply_b_dec_to_input normalize_activations reshape_activations
    rescale_acts_by_decoder_norm activation_fn activation_fn_kwargs finetuning_scaling_factor
"""

# Details of training, without effect on the saved autoencoder.
_TRAINING = """
    model_name model_class_name model_kwargs model_from_pretrained_kwargs hook_name hook_name_out hook_eval hook_layer
    hook_layer_out hook_head_index hook_head_index_out hook_point_layer hook_point_eval hf_hook_name hf_hook_name_out
    context_size prepend_bos exclude_special_tokens seqpos_slice dataset_path dataset_trust_remote_code streaming
    is_dataset_tokenized tokenizer_name use_chat_formatting disable_concat_sequences sequence_separator_token
    begin_batch_token begin_sequence_token neuronpedia_id sae_lens_version sae_lens_training_version
    training_tokens finetuning_tokens finetuning_method total_training_tokens total_training_samples
    use_cached_activations cached_activations_path new_cached_activations_path from_pretrained_path
    n_batches_in_buffer store_batch_size store_batch_size_prompts train_batch_size train_batch_size_tokens
    train_batch_size_samples eval_batch_size_prompts n_eval_batches n_eval_seqs activations_mixing_fraction
    act_store_device llm_device prefetch_llm_batches seed autocast autocast_lm compile_llm llm_compilation_mode
    compile_sae sae_compilation_mode adam_beta1 adam_beta2 lr lr_end lr_scheduler_name lr_warm_up_steps lr_decay_steps
    n_restart_cycles resample_batches n_batches_for_norm_estimate dead_feature_window dead_feature_threshold
    dead_feature_estimation_method feature_sampling_window feature_sampling_method feature_reinit_scale
    expansion_factor b_dec_init_method decoder_init_norm decoder_heuristic_init decoder_orthogonal_init
    init_encoder_as_decoder_transpose normalize_sae_decoder noise_scale mse_loss_normalization use_ghost_grads
    scale_sparsity_penalty_by_decoder_norm l1_coefficient l1_warm_up_steps lp_norm l0_coefficient l0_warm_up_steps
    jumprelu_init_threshold jumprelu_bandwidth jumprelu_sparsity_loss_mode jumprelu_tanh_scale jumprelu_ste_to_input
    pre_act_loss_coefficient target_l0 use_sparse_activations aux_loss_coefficient topk_threshold_lr matryoshka_widths
    use_matryoshka_aux_loss log_to_wandb log_activations_store_to_wandb log_optimizer_state_to_wandb wandb_project
    wandb_entity wandb_id wandb_log_frequency eval_every_n_wandb_logs run_name logger verbose n_checkpoints
    checkpoint_path save_final_checkpoint output_path resume resume_from_checkpoint
"""

UNDERSTOOD, TRAINING = frozenset(_UNDERSTOOD.split()), frozenset(_TRAINING.split())
