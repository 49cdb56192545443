//! `/v1/embeddings`, `/v1/rerank`, `/tokenize` and `/detokenize`: a small part of their shapes. The vectors and scores are
//! made of letters, not of meaning.

use super::Settings;
use super::refusal::Refusal;
use super::tokens;
use serde_json::{Value, json};

/// Numbers of a vector. Chosen: enough to tell texts apart.
const DIMENSIONS: usize = 8;
/// Token numbers are below this: Qwen's vocabulary.
const VOCABULARY: u32 = 151_936;

/// The answer at one of these paths.
pub fn answer(path: &str, body: &[u8], settings: &Settings) -> Result<Value, Refusal> {
    let body: Value = serde_json::from_slice(body).map_err(|_| Refusal::bad_request("Invalid JSON"))?;
    match path {
        "/v1/embeddings" => embeddings(&body),
        "/v1/rerank" => rerank(&body),
        "/tokenize" => tokenize(&body, settings),
        _ => detokenize(&body),
    }
}

fn embeddings(body: &Value) -> Result<Value, Refusal> {
    let texts = texts(body, "input")?;
    let data: Vec<_> = texts
        .iter()
        .enumerate()
        .map(|(index, text)| json!({"object": "embedding", "index": index, "embedding": vector(text)}))
        .collect();
    let count: u32 = texts.iter().map(|text| tokens::count(text)).sum();
    let usage = json!({"prompt_tokens": count, "total_tokens": count});
    Ok(json!({"object": "list", "data": data, "model": body["model"], "usage": usage}))
}

fn rerank(body: &Value) -> Result<Value, Refusal> {
    let query = vector(body["query"].as_str().ok_or_else(|| missing("query"))?);
    let score = |text: &str| vector(text).iter().zip(&query).map(|(left, right)| left * right).sum::<f64>();
    let mut ranked: Vec<_> = texts(body, "documents")?.into_iter().enumerate().collect();
    ranked.sort_by(|(_, left), (_, right)| score(right).total_cmp(&score(left)));
    let row = |(index, text): (usize, String)| json!({"score": score(&text), "document": text, "index": index});
    Ok(ranked.into_iter().map(row).collect())
}

fn tokenize(body: &Value, settings: &Settings) -> Result<Value, Refusal> {
    let text = body["prompt"].as_str().ok_or_else(|| missing("prompt"))?;
    let numbers: Vec<_> = tokens::tokens(text).map(number).collect();
    Ok(json!({"tokens": numbers, "count": numbers.len(), "max_model_len": settings.context_length}))
}

/// Numbers say nothing of the words that they were made of.
fn detokenize(body: &Value) -> Result<Value, Refusal> {
    let numbers = body["tokens"].as_array().ok_or_else(|| missing("tokens"))?;
    let words: Vec<_> = numbers.iter().map(|number| format!("[{number}]")).collect();
    Ok(json!({"text": words.join(" ")}))
}

fn texts(body: &Value, name: &str) -> Result<Vec<String>, Refusal> {
    let texts = match &body[name] {
        Value::String(text) => Some(vec![text.clone()]),
        Value::Array(texts) => texts.iter().map(|text| Some(text.as_str()?.to_owned())).collect(),
        _ => None,
    };
    texts.ok_or_else(|| missing(name))
}

fn missing(name: &str) -> Refusal {
    Refusal::bad_request(format!("'{name}' is missing or of a wrong type"))
}

/// How often its letters come, by their number.
fn vector(text: &str) -> [f64; DIMENSIONS] {
    let mut vector = [0.0; DIMENSIONS];
    for byte in text.bytes() {
        vector[usize::from(byte) % DIMENSIONS] += 1.0;
    }
    vector
}

fn number(token: &str) -> u32 {
    token.bytes().fold(0, |number: u32, byte| (number.wrapping_mul(31) + u32::from(byte)) % VOCABULARY)
}
