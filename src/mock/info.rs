//! What the server says about itself: models, settings, load.

use super::queue::Load;
use super::{Settings, Version};
use serde_json::{Value, json};

/// Tokens of the KV cache, for load reports. Chosen: what 8 × 80 GB leave for the 480B model is of this size.
const KV_TOKENS: usize = 1 << 20;

/// `/v1/models`.
pub fn models(settings: &Settings, created: u64) -> Value {
    let data: Vec<Value> = settings.models.iter().map(|model| one_model(settings, model, created)).collect();
    json!({"object": "list", "data": data})
}

/// `/v1/models/…`.
pub fn one_model(settings: &Settings, model: &str, created: u64) -> Value {
    json!({
        "id": model, "object": "model", "created": created, "owned_by": "sglang", "root": model, "parent": null,
        "max_model_len": settings.context_length,
    })
}

/// `/model_info` and `/get_model_info`. 0.5.23 has many more members; the ones that matter to a gateway are here.
pub fn model_info(settings: &Settings) -> Value {
    let model = settings.models.first().map_or("default", String::as_str);
    let base = json!({
        "model_path": model, "tokenizer_path": model, "is_generation": true, "preferred_sampling_params": null,
        "weight_version": "default", "has_image_understanding": false, "has_audio_understanding": false,
        "model_type": "qwen3_moe", "architectures": ["Qwen3MoeForCausalLM"],
    });
    let mut info = base;
    if settings.version == Version::V0_5_23 {
        info["served_model_name"] = json!(model);
        info["reasoning_parser"] = Value::Null;
        info["tool_call_parser"] = json!(settings.parser.then_some("qwen3_coder"));
    }
    info
}

/// `/server_info` and `/get_server_info`: a small part of it.
pub fn server_info(settings: &Settings, load: Load) -> Value {
    let model = settings.models.first().map_or("default", String::as_str);
    json!({
        "model_path": model, "api_key": settings.api_key, "served_model_name": model, "context_length": settings.context_length,
        "tool_call_parser": settings.parser.then_some("qwen3_coder"), "reasoning_parser": null,
        "max_running_requests": load.running_max, "max_queued_requests": settings.queue_max,
        "max_total_num_tokens": settings.kv_tokens.unwrap_or(KV_TOKENS), "version": settings.version.to_string(),
        "internal_states": [{"last_gen_throughput": 0.0, "effective_max_running_requests_per_dp": load.running_max}],
    })
}

/// `/get_load` of 0.5.7.
pub fn old_load(load: Load) -> Value {
    json!([{
        "rid": null, "http_worker_ipc": null, "dp_rank": null, "num_reqs": load.running + load.waiting,
        "num_waiting_reqs": load.waiting, "num_tokens": load.tokens, "ts_tic": 0.0,
    }])
}

/// `/v1/loads` of 0.5.23, its core part.
pub fn new_load(settings: &Settings, load: Load, now: u64) -> Value {
    let kv_tokens = settings.kv_tokens.unwrap_or(KV_TOKENS);
    #[expect(clippy::cast_precision_loss, reason = "a share with four digits")]
    let token_usage = (load.tokens as f64 / kv_tokens as f64 * 10_000.0).round() / 10_000.0;
    json!({
        "timestamp": "2026-01-01T00:00:00+00:00", "version": "0.5.23", "accelerator": null, "num_accelerators": 1,
        "loads": [{
            "timestamp": now, "dp_rank": 0, "num_running_reqs": load.running, "num_waiting_reqs": load.waiting,
            "num_waiting_uncached_tokens": 0, "num_used_tokens": load.tokens, "num_total_tokens": load.tokens,
            "num_active_tokens": load.tokens, "num_prealloc_ready_tokens": 0, "max_total_num_tokens": kv_tokens,
            "max_running_requests": load.running_max, "token_usage": token_usage, "gen_throughput": 0.0,
            "cache_hit_rate": 0.0, "utilization": 0.0, "total_prefill_uncached_tokens": 0, "total_prefill_busy_us": 0,
            "decode_moments": [0, 0, 0, 0, 0, 0],
        }],
    })
}

/// A report that nobody should believe.
pub fn lying_load() -> Value {
    json!({"loads": [{
        "num_running_reqs": -7, "num_waiting_reqs": u64::MAX, "num_used_tokens": 1e300, "max_total_num_tokens": "many",
    }]})
}
