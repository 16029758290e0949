"""Model families of transformers with tiny random weights, and what is compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import transformers
from torch import Tensor

LENGTH, PADDING = 17, 5


@dataclass(frozen=True)
class Family:
    """A model: its config's class and values, and the class of the model.

    `kind` says what goes in: text (decoder), encoder, pair (encoder and decoder), image, audio.
    """

    kind: str
    config: str
    values: Mapping[str, object]
    model: str = ""

    def build(self) -> torch.nn.Module:
        """Return the model with random weights, large enough for attention to matter."""
        torch.manual_seed(0)
        config = getattr(transformers, self.config)(**self.values)
        config._attn_implementation = "eager"
        auto = {
            "text": "AutoModelForCausalLM",
            "pair": "AutoModelForSeq2SeqLM",
            "encoder": "AutoModel",
            "image": "AutoModel",
        }
        if self.model:
            model = getattr(transformers, self.model)(config)
        else:
            model = getattr(transformers, auto[self.kind]).from_config(config)
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.15)
            elif "sinks" in name:
                torch.nn.init.normal_(parameter)
        return model.eval()

    @property
    def pads(self) -> bool:
        """Whether a batch of it has padding: decoders on the left, encoders on the right."""
        return self.kind in ("text", "encoder", "pair")

    def inputs(self) -> dict[str, Tensor]:
        """Draw the inputs of a batch of two."""
        g = torch.Generator().manual_seed(1)
        if self.kind == "image":
            return {"pixel_values": torch.randn(2, 3, 32, 32, generator=g)}
        tokens = torch.randint(3, 99, (2, LENGTH), generator=g)
        if self.kind == "audio":
            features = torch.randn(2, 16, 40, generator=g)
            return {"input_features": features, "decoder_input_ids": tokens[:, :9]}
        keep = torch.ones(2, LENGTH, dtype=torch.long)
        keep[1, slice(PADDING) if self.kind == "text" else slice(-PADDING, None)] = 0
        batch = {"input_ids": tokens.masked_fill(keep == 0, 0), "attention_mask": keep}
        if self.kind == "pair":
            batch["decoder_input_ids"] = torch.randint(3, 99, (2, 9), generator=g)
        return batch

    def outputs(self, model: torch.nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return logits, or hidden states, of what is no padding."""
        cache = {"use_cache": False} if self.kind == "text" else {}
        result = model(**inputs, **cache)
        found: Tensor = result.logits if "logits" in result else result.last_hidden_state
        keep = inputs.get("attention_mask")
        if keep is not None and self.kind in ("text", "encoder"):
            found = found[keep.bool()]
        return found

    def gradients(self, model: torch.nn.Module, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the gradient of every parameter."""
        model.zero_grad()
        self.outputs(model, inputs).pow(2).mean().backward()
        return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}

    def tokens(
        self, model: torch.nn.Module, inputs: Mapping[str, Tensor], **options: object
    ) -> Tensor:
        """Generate greedily."""
        given = {n: x for n, x in inputs.items() if n != "decoder_input_ids"}
        call = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False, **options}
        return model.generate(**given, **call)  # type: ignore[operator, no-any-return]


TOKENS = {"vocab_size": 99, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
DECODER = TOKENS | {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 128,
}  # fmt: skip
MIXED = DECODER | {"num_hidden_layers": 4}
ENCODER = {
    "vocab_size": 99, "pad_token_id": 0, "hidden_size": 64, "intermediate_size": 96,
    "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 128,
    "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
}  # fmt: skip
PAIR = TOKENS | {
    "d_model": 64, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 96, "decoder_ffn_dim": 96, "dropout": 0.0,
    "max_position_embeddings": 128, "decoder_start_token_id": 2,
}  # fmt: skip
T5 = {
    "vocab_size": 99, "d_model": 64, "d_kv": 16, "d_ff": 96, "num_layers": 2, "num_heads": 4,
    "dropout_rate": 0.0, "pad_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 0,
}  # fmt: skip
IMAGE = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "image_size": 32, "patch_size": 8,
}  # fmt: skip
WHISPER = {
    "vocab_size": 99, "num_mel_bins": 16, "d_model": 64, "encoder_layers": 2, "decoder_layers": 2,
    "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 96,
    "decoder_ffn_dim": 96, "max_source_positions": 20, "max_target_positions": 64,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1,
    "begin_suppress_tokens": None, "suppress_tokens": None,
}  # fmt: skip
GPT2 = {
    "vocab_size": 99, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 128,
    "attn_pdrop": 0.0, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
MLA = DECODER | {
    "num_key_value_heads": 4, "q_lora_rank": 32, "kv_lora_rank": 16, "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 16, "v_head_dim": 20, "n_routed_experts": 4, "num_experts_per_tok": 2,
    "n_group": 1, "topk_group": 1, "moe_intermediate_size": 32, "first_k_dense_replace": 1,
}  # fmt: skip
EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
HEAD = {"head_dim": 16}
WINDOW = {"sliding_window": 6}
GEMMA2 = HEAD | WINDOW | {"query_pre_attn_scalar": 16, "attn_logit_softcapping": 5.0}
MODERN = TOKENS | {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4, "num_attention_heads": 4,
    "max_position_embeddings": 128, "local_attention": 6, "global_attn_every_n_layers": 2,
    "cls_token_id": 1, "sep_token_id": 2,
}  # fmt: skip
SWIN = {
    "image_size": 32, "patch_size": 2, "embed_dim": 32, "depths": [2, 2], "num_heads": [2, 4],
    "window_size": 4, "drop_path_rate": 0.0,
}  # fmt: skip
NEOX = {
    "vocab_size": 99, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": 4, "max_position_embeddings": 128,
}  # fmt: skip
OPT = TOKENS | {
    "hidden_size": 64, "ffn_dim": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 128, "word_embed_proj_dim": 64, "dropout": 0.0,
}  # fmt: skip

FAMILIES = {
    "llama": Family("text", "LlamaConfig", DECODER),
    "mistral": Family("text", "MistralConfig", DECODER | WINDOW),
    "mixtral": Family("text", "MixtralConfig", DECODER | WINDOW | EXPERTS),
    "qwen2": Family(
        "text", "Qwen2Config", MIXED | WINDOW | {"use_sliding_window": True, "max_window_layers": 2}
    ),
    "qwen3": Family("text", "Qwen3Config", DECODER | HEAD),
    "phi3": Family("text", "Phi3Config", DECODER | WINDOW),
    "gemma": Family("text", "GemmaConfig", DECODER | HEAD),
    "gemma2": Family("text", "Gemma2Config", DECODER | GEMMA2),
    "gemma3": Family(
        "text",
        "Gemma3TextConfig",
        DECODER
        | HEAD
        | WINDOW
        | {"query_pre_attn_scalar": 16, "layer_types": ["sliding_attention", "full_attention"]},
    ),
    "gpt_oss": Family("text", "GptOssConfig", DECODER | HEAD | WINDOW | EXPERTS),
    "cohere2": Family("text", "Cohere2Config", MIXED | WINDOW),
    "olmo2": Family("text", "Olmo2Config", DECODER),
    "olmo3": Family("text", "Olmo3Config", MIXED | WINDOW),
    "llama4": Family(
        "text",
        "Llama4TextConfig",
        MIXED
        | HEAD
        | {"attention_chunk_size": 6, "num_local_experts": 2, "intermediate_size_mlp": 96},
    ),
    "smollm3": Family("text", "SmolLM3Config", MIXED),
    "granite": Family("text", "GraniteConfig", DECODER | {"attention_multiplier": 0.1}),
    "glm4": Family("text", "Glm4Config", DECODER | HEAD),
    "stablelm": Family("text", "StableLmConfig", DECODER),
    "starcoder2": Family("text", "Starcoder2Config", DECODER | WINDOW),
    "deepseek_v3": Family("text", "DeepseekV3Config", MLA),
    "gpt2": Family("text", "GPT2Config", GPT2 | {"scale_attn_by_inverse_layer_idx": True}),
    "opt": Family("text", "OPTConfig", OPT),
    "gpt_neox": Family("text", "GPTNeoXConfig", NEOX),
    "t5": Family("pair", "T5Config", T5),
    "bart": Family("pair", "BartConfig", PAIR),
    "mbart": Family("pair", "MBartConfig", PAIR),
    "marian": Family("pair", "MarianConfig", PAIR),
    "m2m_100": Family("pair", "M2M100Config", PAIR),
    "pegasus": Family("pair", "PegasusConfig", PAIR),
    "whisper": Family("audio", "WhisperConfig", WHISPER, "WhisperForConditionalGeneration"),
    "bert": Family("encoder", "BertConfig", ENCODER),
    "roberta": Family("encoder", "RobertaConfig", ENCODER),
    "electra": Family("encoder", "ElectraConfig", ENCODER | {"embedding_size": 64}),
    "modernbert": Family("encoder", "ModernBertConfig", MODERN),
    "vit": Family("image", "ViTConfig", IMAGE),
    "dinov2": Family("image", "Dinov2Config", IMAGE),
    "siglip": Family("image", "SiglipVisionConfig", IMAGE),
    "swin": Family("image", "SwinConfig", SWIN),
}

# Not on transformers' attention interface: they are refused, loudly.
REFUSED = {
    "bloom": Family(
        "text", "BloomConfig", {"vocab_size": 99, "hidden_size": 64, "n_layer": 2, "n_head": 4}
    ),
    "mpt": Family(
        "text",
        "MptConfig",
        {"vocab_size": 99, "d_model": 64, "n_layers": 2, "n_heads": 4, "max_seq_len": 128},
    ),
    "deberta_v2": Family("encoder", "DebertaV2Config", ENCODER),
}
