//! A model's call on its way into a guest, and what the guest sends back.

use super::cut::Cut;
use super::job::Job;
use super::outcome::{ERROR_BYTES_MAX, Ended, Outcome, Texts};
use super::span::{self, HOST_CALL_BYTES_MAX, Span};
use super::values;
use crate::access::{self, ANONYMOUS, Access};
use crate::chat::RawCall;
use crate::policy::{self, Limits, Policies};
use crate::tools::{self, Tools};
use libfuzzer_sys::arbitrary::{Result, Unstructured};
use std::path::Path;
use std::sync::LazyLock;
use std::time::Duration;

/// Characters of what a model is told about a call that is wrong. Its own words are quoted in short.
const TOLD_CHARS_MAX: usize = 2000;
/// Bytes of what stands where a text was cut, with a count of 20 digits.
const MARK_BYTES_MAX: usize = 48;

struct House {
    tools: Tools,
    policies: Policies,
}

/// The repository's own tools and policies, and one tool that is a program with arguments.
static HOUSES: LazyLock<[House; 2]> = LazyLock::new(|| ["..", "."].map(house));

fn house(dir: &str) -> House {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(dir);
    let tools = Tools::load(&tools::Settings { dir: root.join("tools") }).expect("tools");
    let policies = Policies::load(&policy::Settings { dir: root.join("policies") }, &tools, &[]).expect("policies");
    House { tools, policies }
}

/// The first byte says which tool is called and how the rest is its arguments.
pub fn call(data: &[u8]) {
    let Some((how, text)) = data.split_first() else { return };
    let text = String::from_utf8_lossy(text).into_owned();
    let name = ["execute_code", "weather", &text][usize::from(how % 3)];
    // As a program, or as whatever a model writes.
    let arguments = if how & 4 == 0 { serde_json::json!({ "code": text }).to_string() } else { text.clone() };
    HOUSES.iter().for_each(|house| check(house, name, &arguments));
    let _ = guest(&mut Unstructured::new(data));
}

fn check(House { tools, policies }: &House, name: &str, arguments: &str) {
    static ACCESS: LazyLock<Access> = LazyLock::new(|| Access::new(&access::Settings::default()));
    let call = RawCall { id: "call".into(), name: name.into(), arguments: arguments.into() };
    let checked = match tools.check(&call) {
        Ok(checked) => checked,
        Err(invalid) => {
            let told = invalid.to_string();
            assert!(told.chars().count() <= TOLD_CHARS_MAX, "{told}");
            return;
        }
    };
    let caller = ACCESS.named(ANONYMOUS).expect("everybody");
    let permit = policy::decide(policies.of(caller), caller, checked).expect("a tool that is granted");
    let job = Job::of(&permit, super::wasi::Conditions::default());
    let sent: serde_json::Value = serde_json::from_str(arguments).unwrap_or_default();
    match &job.arguments {
        // The program is what the model wrote, to the byte.
        None => assert_eq!(sent["code"].as_str(), Some(job.source.as_str())),
        Some(given) => assert_eq!(serde_json::from_str::<serde_json::Value>(given).expect("JSON"), sent),
    }
}

/// A guest that asks for memory anywhere, and hands over anything.
fn guest(any: &mut Unstructured) -> Result<()> {
    let mut memory = vec![0; any.int_in_range(0..=4096)?];
    let limits = Limits {
        output_bytes: any.int_in_range(0..=300)?,
        result_bytes: any.int_in_range(0..=300)?,
        ..values::limits(any)?
    };
    let mut texts = Texts::within(&limits);
    let mut sent = [0_usize; 4];
    while !any.is_empty() {
        let (address, bytes) = (address(any)?, any.arbitrary::<&[u8]>()?);
        let before = memory.clone();
        let span = Span { address, bytes: u32::try_from(bytes.len()).expect("an input is short") };
        match span::write(&mut memory, address, bytes) {
            Ok(()) => assert_eq!(span.of(&memory), Ok(bytes)),
            Err(_) => assert!(memory == before && span.of(&memory).is_err()),
        }
        let said = Span { address: self::address(any)?, bytes: self::address(any)? };
        let Ok(chunk) = said.of(&memory) else { continue };
        assert!(chunk.len() == said.bytes as usize && chunk.len() <= HOST_CALL_BYTES_MAX);
        let channel = any.int_in_range(0..=3)?;
        let cut: &mut Cut = [&mut texts.stdout, &mut texts.stderr, &mut texts.value, &mut texts.error]
            .into_iter()
            .nth(channel)
            .expect("four");
        assert!(cut.push(chunk) <= chunk.len());
        sent[channel] += chunk.len();
    }
    check_texts(&Outcome::of_run(Ended::Raised, None, Duration::ZERO, texts), &limits, sent);
    Ok(())
}

/// No text is longer than it may be, and what is missing of one is said.
fn check_texts(outcome: &Outcome, limits: &Limits, sent: [usize; 4]) {
    let texts = [Some(&outcome.stdout), Some(&outcome.stderr), outcome.value.as_ref(), outcome.error.as_ref()];
    let most = [limits.output_bytes, limits.output_bytes, limits.result_bytes, ERROR_BYTES_MAX];
    for ((text, most), sent) in texts.into_iter().zip(most).zip(sent) {
        let text = text.map_or("", String::as_str);
        // A byte that is no text becomes a character of three.
        assert!(text.len() <= 3 * most + MARK_BYTES_MAX, "{} bytes, where {most} are the most", text.len());
        assert!(sent <= most || text.contains(" bytes omitted]…"), "{text:?} of {sent} bytes");
    }
    let over: usize = most.iter().zip(sent).map(|(most, sent)| sent.saturating_sub(*most)).sum();
    // A character that is cut through goes whole.
    assert!(over > 0 || outcome.omitted_bytes == 0);
    assert!((over..=over + 4 * 6).contains(&usize::try_from(outcome.omitted_bytes).expect("few")));
}

/// Within the memory, or anywhere.
fn address(any: &mut Unstructured) -> Result<u32> {
    if any.ratio(7, 8)? { any.int_in_range(0..=4200) } else { any.arbitrary() }
}
