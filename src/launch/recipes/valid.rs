//! Whether rules hold together. An argument whose `when` has a slip of the pen would be left out of commands, and nobody
//! would know: whatever names something must name something that is there.

use super::{Recipes, Tip, Variable, When, Written};

/// The ids of one axis.
struct Axis<'a> {
    name: &'static str,
    ids: Vec<&'a str>,
}

impl Axis<'_> {
    /// `thing` has `value` where one of the ids is to be.
    fn has(&self, thing: &str, value: &str) -> Result<(), String> {
        if self.ids.contains(&value) {
            return Ok(());
        }
        let name = self.name;
        Err(format!("{thing}: unknown {name} `{value}`; known: {}", quoted(&self.ids)))
    }

    /// Each is a word of its own, as the command line takes it.
    fn check(&self) -> Result<(), String> {
        let name = self.name;
        if self.ids.is_empty() {
            return Err(format!("{name}: there is none; write at least one [[{name}]]"));
        }
        for (at, id) in self.ids.iter().enumerate() {
            let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c);
            if id.is_empty() || !id.chars().all(plain) {
                return Err(format!("{name} `{id}`: write its id in lower-case letters, digits, `.`, `_` and `-`"));
            }
            if self.ids[..at].contains(id) {
                return Err(format!("{name} `{id}`: it is there twice; give one of them another id"));
            }
        }
        Ok(())
    }
}

/// What a `when` may name, axis by axis.
struct Axes<'a> {
    hardware: Axis<'a>,
    model_size: Axis<'a>,
    quantization: Axis<'a>,
    tool_call_parser: Axis<'a>,
    vendor: Axis<'a>,
}

impl Recipes {
    pub(super) fn check(&self) -> Result<(), String> {
        let mut vendors: Vec<_> = self.hardware.iter().map(|it| it.vendor.as_str()).collect();
        vendors.sort_unstable();
        vendors.dedup();
        let axes = Axes {
            hardware: Axis { name: "hardware", ids: self.hardware.iter().map(|it| it.id.as_str()).collect() },
            model_size: Axis { name: "model_size", ids: self.model_size.iter().map(|it| it.id.as_str()).collect() },
            quantization: Axis {
                name: "quantization",
                ids: self.quantization.iter().map(|it| it.id.as_str()).collect(),
            },
            tool_call_parser: Axis { name: "tool_call_parser", ids: self.tool_call_parsers() },
            vendor: Axis { name: "vendor", ids: vendors },
        };
        for axis in [&axes.hardware, &axes.model_size, &axes.quantization, &axes.tool_call_parser] {
            axis.check()?;
        }
        if self.program.trim().is_empty() {
            return Err("`program` is empty; write what is started, such as python -m sglang.launch_server".to_owned());
        }
        self.check_hardware(&axes.vendor)?;
        self.check_models(&axes)?;
        self.check_command(&axes)?;
        self.check_default(&axes)
    }

    fn check_hardware(&self, vendors: &Axis) -> Result<(), String> {
        for it in &self.hardware {
            let (id, vendor) = (&it.id, &it.vendor);
            if !self.compose.contains_key(vendor) {
                return Err(format!(
                    "hardware `{id}`: there is no `compose.{vendor}`; write how a container gets at it"
                ));
            }
            if it.gpus == 0 {
                return Err(format!("hardware `{id}`: `gpus` is 0; write how many one machine has"));
            }
        }
        self.compose.keys().try_for_each(|vendor| vendors.has("compose", vendor))
    }

    fn check_models(&self, axes: &Axes) -> Result<(), String> {
        for size in &self.model_size {
            let thing = format!("model_size `{}`, `tp`", size.id);
            for (hardware, tp) in &size.tp {
                axes.hardware.has(&thing, hardware)?;
                if *tp == 0 {
                    let way_out = "write how many GPUs one instance takes, or leave it out";
                    return Err(format!("{thing}: `{hardware}` is 0; {way_out}"));
                }
            }
        }
        for it in &self.quantization {
            let thing = |what: &str| format!("quantization `{}`, `{what}`", it.id);
            it.vendors.iter().try_for_each(|vendor| axes.vendor.has(&thing("vendors"), vendor))?;
            let without = axes.vendor.ids.iter().find(|vendor| !it.vendors.iter().any(|has| has == *vendor));
            if let (Some(vendor), true) = (without, it.refusal.is_empty()) {
                return Err(format!("{}: it is empty; write why it is not for `{vendor}`", thing("refusal")));
            }
            check_placeholders(&thing("model"), &it.model, &["{name}"])?;
            check_placeholders(&thing("refusal"), &it.refusal, &["{hardware}"])?;
        }
        Ok(())
    }

    fn check_command(&self, axes: &Axes) -> Result<(), String> {
        for Variable { name, value, when } in &self.environment {
            let thing = format!("environment `{name}`");
            let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
            if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) || !name.chars().all(plain) {
                return Err(format!("{thing}: a shell takes no such name; write letters, digits and `_`"));
            }
            check_placeholders(&thing, value, &["{model}", "{tp}"])?;
            axes.check(&thing, when)?;
        }
        let of_choice = ["{model}", "{tp}"];
        let of_address = ["{model}", "{tp}", "{host}", "{port}"];
        let of_machine = ["{model}", "{tp}", "{host}", "{port}", "{gpu}"];
        axes.check_arguments("argument", &self.argument, &of_choice)?;
        axes.check_arguments("gateway_argument", &self.gateway_argument, &of_choice)?;
        axes.check_arguments("address_argument", &self.address_argument, &of_address)?;
        axes.check_arguments("shared_machine_argument", &self.shared_machine_argument, &of_machine)?;
        self.tip.iter().try_for_each(|Tip { text, when }| axes.check(&format!("tip `{text}`"), when))
    }

    fn check_default(&self, axes: &Axes) -> Result<(), String> {
        let default = &self.default;
        axes.hardware.has("default", &default.hardware)?;
        axes.model_size.has("default", &default.model_size)?;
        axes.quantization.has("default", &default.quantization)?;
        axes.tool_call_parser.has("default", &default.tool_call_parser)?;
        self.recipe(default).map(drop).map_err(|refused| format!("default: {refused}"))
    }
}

impl Axes<'_> {
    fn check_arguments(&self, list: &str, arguments: &[Written], known: &[&str]) -> Result<(), String> {
        for Written { flag, value, when, .. } in arguments {
            let thing = format!("{list} `{flag}`");
            if !flag.starts_with('-') {
                return Err(format!("{thing}: write its flag with the dashes, such as --tp"));
            }
            check_placeholders(&thing, value.as_deref().unwrap_or_default(), known)?;
            self.check(&thing, when)?;
        }
        Ok(())
    }

    fn check(&self, thing: &str, when: &When) -> Result<(), String> {
        let thing = format!("{thing}, `when`");
        for (axis, named) in [
            (&self.vendor, &when.vendor),
            (&self.hardware, &when.hardware),
            (&self.model_size, &when.model_size),
            (&self.quantization, &when.quantization),
            (&self.tool_call_parser, &when.tool_call_parser),
        ] {
            named.iter().try_for_each(|id| axis.has(&thing, id))?;
        }
        Ok(())
    }
}

/// A placeholder is a word in braces, so that a value may be JSON.
fn check_placeholders(thing: &str, text: &str, known: &[&str]) -> Result<(), String> {
    for (at, _) in text.match_indices('{') {
        let Some(end) = text[at..].find('}') else { continue };
        let placeholder = &text[at..=at + end];
        let word = &placeholder[1..end];
        let is_word = !word.is_empty() && word.chars().all(|c| c.is_ascii_alphabetic() || c == '_');
        if is_word && !known.contains(&placeholder) {
            return Err(format!("{thing}: `{placeholder}` stands for nothing here; known: {}", quoted(known)));
        }
    }
    Ok(())
}

fn quoted(words: &[&str]) -> String {
    words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
}
