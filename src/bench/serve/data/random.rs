//! `random` and `random-ids`: lengths by lot, as `bench_serving` draws them.

use super::{DataSet, NoData, Says, Turn, Wanted, clamped};
use crate::bench::serve::lots::Lots;
use crate::bench::serve::tokenizer::Tokenizer;
use crate::bench::serve::tokens::Tokens;
use serde::Deserialize;
use std::path::Path;

pub(super) fn draw(wanted: &Wanted, tokens: &Tokens, lots: &mut Lots) -> Result<Vec<Turn>, NoData> {
    let mut inputs = lengths(lots, wanted.input_len, wanted);
    let outputs = lengths(lots, wanted.output_len, wanted);
    let around = tokens.tokenizer().filter(|_| !wanted.as_ids).map_or(0, Tokenizer::around);
    for length in &mut inputs {
        *length = length.saturating_sub(around).max(1);
    }
    let prompts = match (wanted.data_set, &wanted.path) {
        (DataSet::RandomIds, _) => in_order(&inputs, tokens, lots, wanted.as_ids)?,
        (_, Some(path)) => of_file(path, &inputs, tokens, wanted)?,
        (_, None) => {
            let mut lots = Lots::python(wanted.seed);
            let text = |length: &u32| prompt(tokens.words(*length, &mut lots)?, tokens, wanted.as_ids);
            inputs.iter().map(text).collect::<Result<_, _>>()?
        }
    };
    let turn = |((says, input_tokens), output_tokens)| Turn { says, input_tokens, output_tokens };
    Ok(prompts.into_iter().zip(inputs).zip(outputs).map(turn).collect())
}

/// From the least to the most, each as likely.
fn lengths(lots: &mut Lots, most: u32, wanted: &Wanted) -> Vec<u32> {
    let least = clamped(f64::from(most) * wanted.range_ratio, 1, most);
    (0..wanted.prompts).map(|_| lots.between(least, most + 1)).collect()
}

fn prompt(text: String, tokens: &Tokens, as_ids: bool) -> Result<Says, NoData> {
    match (as_ids, tokens.tokenizer()) {
        (false, _) => Ok(Says::Text(text)),
        (true, Some(tokenizer)) => Ok(Says::Ids(tokenizer.encode(&text)?)),
        (true, None) => Err(NoData::Missing("--tokenize-prompt needs --tokenizer FILE, the model's tokenizer.json")),
    }
}

/// Tokens as the vocabulary has them, each prompt from a place that is drawn.
fn in_order(inputs: &[u32], tokens: &Tokens, lots: &mut Lots, as_ids: bool) -> Result<Vec<Says>, NoData> {
    let needed =
        "--dataset-name random-ids needs --tokenizer FILE, the model's tokenizer.json: its prompts are made of it";
    let tokenizer = tokens.tokenizer().ok_or(NoData::Missing(needed))?;
    let size = tokenizer.size().max(1);
    let offsets: Vec<_> = inputs.iter().map(|_| lots.between(0, size)).collect();
    let prompt = |((number, length), offset): ((u32, &u32), u32)| {
        let ids = (0..*length).map(|at| (u64::from(offset) + u64::from(number) + u64::from(at)) % u64::from(size));
        let ids = ids.map(|id| u32::try_from(id).unwrap_or_default()).collect::<Vec<_>>();
        Ok::<_, NoData>(if as_ids { Says::Ids(ids) } else { Says::Text(tokenizer.decode(&ids)?) })
    };
    (0..).zip(inputs).zip(offsets).map(prompt).collect()
}

#[derive(Deserialize)]
struct Conversation {
    #[serde(alias = "conversation", default)]
    conversations: Vec<Said>,
}

#[derive(Deserialize)]
struct Said {
    value: String,
}

/// The first words of a `ShareGPT` file's conversations, shuffled, cut or repeated to length.
fn of_file(path: &Path, inputs: &[u32], tokens: &Tokens, wanted: &Wanted) -> Result<Vec<Says>, NoData> {
    let wrong = |why: String| NoData::File { path: path.to_owned(), why };
    let text = std::fs::read(path).map_err(|error| wrong(error.to_string()))?;
    let mut conversations: Vec<Conversation> = serde_json::from_slice(&text)
        .map_err(|error| wrong(format!("not a list of conversations as ShareGPT's file: {error}")))?;
    conversations.retain(|conversation| conversation.conversations.len() >= 2);
    Lots::python(wanted.seed).shuffle(&mut conversations);
    let firsts = conversations.iter().map(|conversation| conversation.conversations[0].value.as_str());
    let firsts: Vec<_> = firsts.filter(|text| !text.is_empty()).take(inputs.len()).collect();
    if firsts.len() < inputs.len() {
        return Err(wrong(format!(
            "it has {} conversations that begin with a text, not {}",
            firsts.len(),
            inputs.len()
        )));
    }
    let pairs = firsts.into_iter().zip(inputs);
    pairs.map(|(text, length)| prompt(tokens.fit(text, *length)?, tokens, wanted.as_ids)).collect()
}
