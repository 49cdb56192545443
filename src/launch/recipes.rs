//! The rules: which choices there are, and what each of them is launched with.

mod valid;

use serde::Deserialize;
use std::collections::BTreeMap;

/// One entry of each axis, by its id.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Choice {
    /// Which GPUs.
    pub hardware: String,
    /// Which of the models.
    pub model_size: String,
    /// How its weights are stored.
    pub quantization: String,
    /// Whether SGLang finds calls itself.
    pub tool_call_parser: String,
}

/// The rules of one family of models, as they are written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipes {
    program: String,
    /// What is launched where nobody chooses.
    pub default: Choice,
    hardware: Vec<Hardware>,
    model_size: Vec<ModelSize>,
    quantization: Vec<Quantization>,
    tool_call_parser: Vec<ToolCallParser>,
    #[serde(default)]
    environment: Vec<Variable>,
    argument: Vec<Written>,
    #[serde(default)]
    gateway_argument: Vec<Written>,
    address_argument: Vec<Written>,
    #[serde(default)]
    shared_machine_argument: Vec<Written>,
    #[serde(default)]
    tip: Vec<Tip>,
    compose: BTreeMap<String, String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Hardware {
    id: String,
    vendor: String,
    gpus: u32,
    image: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ModelSize {
    id: String,
    name: String,
    tp: BTreeMap<String, u32>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Quantization {
    id: String,
    model: String,
    vendors: Vec<String>,
    refusal: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ToolCallParser {
    id: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Variable {
    name: String,
    value: String,
    #[serde(default)]
    when: When,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    flag: String,
    value: Option<String>,
    field: Option<String>,
    or_field: Option<String>,
    unset: Option<String>,
    #[serde(default)]
    when: When,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Tip {
    text: String,
    #[serde(default)]
    when: When,
}

/// On each axis one of these; an empty list is any.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct When {
    vendor: Vec<String>,
    hardware: Vec<String>,
    model_size: Vec<String>,
    quantization: Vec<String>,
    tool_call_parser: Vec<String>,
}

/// What one choice is launched with. What hangs on the machine, `{host}`, `{port}` and `{gpu}`, is still to be put in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipe {
    /// Environment variables, with their values.
    pub environment: Vec<(String, String)>,
    /// The program and its first arguments.
    pub program: String,
    /// What the page gives it.
    pub arguments: Vec<Argument>,
    /// What the page gives others and not it: a server that was started so was not started with this recipe.
    pub absent_arguments: Vec<Argument>,
    /// What a gateway makes use of.
    pub gateway_arguments: Vec<Argument>,
    /// Where it is reached.
    pub address_arguments: Vec<Argument>,
    /// Where several instances share a machine.
    pub shared_machine_arguments: Vec<Argument>,
    /// What to know about it.
    pub tips: Vec<String>,
    /// The model's path.
    pub model: String,
    /// GPUs of one instance.
    pub tp: u32,
    /// GPUs of one machine.
    pub gpus: u32,
    /// A container image of SGLang's.
    pub image: String,
    /// Lines of a compose service that give it the GPUs.
    pub devices: String,
}

/// An argument of a command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Argument {
    /// Its name, with the dashes.
    pub flag: String,
    /// Its value; a switch has none.
    pub value: Option<String>,
    /// What `/server_info` calls it, if it says so.
    pub field: Option<String>,
    /// Where `/server_info` may say it, too.
    pub or_field: Option<String>,
    /// What `/server_info` says where it is not set, beside null and false.
    pub unset: Option<String>,
}

impl Recipe {
    /// Over how many machines one instance is spread.
    pub fn machines(&self) -> u32 {
        self.tp.div_ceil(self.gpus)
    }
}

/// Rules that cannot be read, or that name what there is not. The message has the line, or the thing.
#[derive(Debug, thiserror::Error)]
#[error("{0}; src/launch/qwen3-coder.toml shows the form")]
pub struct WrongRecipes(String);

/// Why a choice cannot be launched.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// There is no such entry.
    #[error("--{axis}: `{value}` is unknown; write {}", or(known))]
    Unknown {
        /// The axis, as the flag names it.
        axis: &'static str,
        /// What was written.
        value: String,
        /// The entries there are.
        known: Vec<String>,
    },
    /// The model does not run there, as far as is known.
    #[error("{model} model has not been verified on {hardware}; it is on {}. {hardware} has {possible}", or(.verified))]
    Unverified {
        /// Which model.
        model: String,
        /// Where.
        hardware: String,
        /// Where it does.
        verified: Vec<String>,
        /// What does run there.
        possible: String,
    },
    /// The quantization does not run there.
    #[error("{why}. {hardware} has {possible}")]
    Quantization {
        /// In the page's words.
        why: String,
        /// Where.
        hardware: String,
        /// What does run there.
        possible: String,
    },
}

impl Recipes {
    /// Reads rules.
    ///
    /// # Errors
    /// When they are not in this form, or something in them would silently come to nothing.
    pub fn read(text: &str) -> Result<Self, WrongRecipes> {
        let recipes: Self = toml::from_str(text).map_err(|error| WrongRecipes(error.to_string().trim().to_owned()))?;
        recipes.check().map_err(WrongRecipes)?;
        Ok(recipes)
    }

    /// What a choice is launched with. Refusals come in the page's order: the model, then the quantization.
    ///
    /// # Errors
    /// When something in it is unknown, or is not known to work.
    pub fn recipe(&self, choice: &Choice) -> Result<Recipe, Refused> {
        let hardware = find("hardware", &choice.hardware, &self.hardware, |it| &it.id)?;
        let size = find("model-size", &choice.model_size, &self.model_size, |it| &it.id)?;
        let quantization = find("quantization", &choice.quantization, &self.quantization, |it| &it.id)?;
        find("tool-call-parser", &choice.tool_call_parser, &self.tool_call_parser, |it| &it.id)?;
        let label = hardware.id.to_uppercase();
        let Some(tp) = size.tp.get(&hardware.id).copied() else {
            let verified = self.hardware.iter().filter(|it| size.tp.contains_key(&it.id));
            return Err(Refused::Unverified {
                model: size.id.to_uppercase(),
                verified: verified.map(|it| it.id.to_uppercase()).collect(),
                possible: self.possible(hardware),
                hardware: label,
            });
        };
        if !quantization.vendors.contains(&hardware.vendor) {
            let why = quantization.refusal.replace("{hardware}", &label);
            return Err(Refused::Quantization { why, possible: self.possible(hardware), hardware: label });
        }
        let model = quantization.model.replace("{name}", &size.name);
        let holds = |when: &When| when.holds(choice, &hardware.vendor);
        let fill = |text: &String| text.replace("{model}", &model).replace("{tp}", &tp.to_string());
        let argument = |it: &Written| Argument {
            flag: it.flag.clone(),
            value: it.value.as_ref().map(fill),
            field: it.field.clone(),
            or_field: it.or_field.clone(),
            unset: it.unset.clone(),
        };
        let arguments = |written: &[Written]| -> Vec<Argument> {
            written.iter().filter(|it| holds(&it.when)).map(argument).collect()
        };
        let taken = arguments(&self.argument);
        let mut absent: Vec<Argument> = Vec::new();
        for it in &self.argument {
            if !taken.iter().chain(&absent).any(|other| other.flag == it.flag) {
                absent.push(Argument { value: None, ..argument(it) });
            }
        }
        let variables = self.environment.iter().filter(|it| holds(&it.when));
        Ok(Recipe {
            environment: variables.map(|it| (it.name.clone(), fill(&it.value))).collect(),
            program: self.program.clone(),
            arguments: taken,
            absent_arguments: absent,
            gateway_arguments: arguments(&self.gateway_argument),
            address_arguments: arguments(&self.address_argument),
            shared_machine_arguments: arguments(&self.shared_machine_argument),
            tips: self.tip.iter().filter(|it| holds(&it.when)).map(|it| it.text.clone()).collect(),
            tp,
            gpus: hardware.gpus,
            image: hardware.image.clone(),
            devices: self.compose.get(&hardware.vendor).cloned().unwrap_or_default(),
            model,
        })
    }

    /// Every choice of hardware, model and quantization, with the parser as it is by default.
    pub fn choices(&self) -> Vec<Choice> {
        let mut choices = Vec::new();
        for hardware in &self.hardware {
            for size in &self.model_size {
                for quantization in &self.quantization {
                    choices.push(Choice {
                        hardware: hardware.id.clone(),
                        model_size: size.id.clone(),
                        quantization: quantization.id.clone(),
                        tool_call_parser: self.default.tool_call_parser.clone(),
                    });
                }
            }
        }
        choices
    }

    /// The entries of the axis that [`Recipes::choices`] leaves as it is.
    pub fn tool_call_parsers(&self) -> Vec<&str> {
        self.tool_call_parser.iter().map(|it| it.id.as_str()).collect()
    }

    /// What runs on some hardware, as a phrase.
    fn possible(&self, hardware: &Hardware) -> String {
        let taken = self.quantization.iter().filter(|it| it.vendors.contains(&hardware.vendor));
        let quantizations: Vec<_> = taken.map(|it| it.id.to_uppercase()).collect();
        let sizes = self.model_size.iter().filter(|it| it.tp.contains_key(&hardware.id));
        let sizes: Vec<_> = sizes.map(|it| it.id.to_uppercase()).collect();
        format!("{} in {}", or(&sizes), or(&quantizations))
    }
}

impl When {
    fn holds(&self, choice: &Choice, vendor: &str) -> bool {
        [
            (&self.vendor, vendor),
            (&self.hardware, &choice.hardware),
            (&self.model_size, &choice.model_size),
            (&self.quantization, &choice.quantization),
            (&self.tool_call_parser, &choice.tool_call_parser),
        ]
        .into_iter()
        .all(|(any, one)| any.is_empty() || any.iter().any(|it| it == one))
    }
}

fn find<'a, T>(
    axis: &'static str,
    value: &str,
    entries: &'a [T],
    id: impl Fn(&T) -> &String,
) -> Result<&'a T, Refused> {
    entries.iter().find(|entry| id(entry) == value).ok_or_else(|| Refused::Unknown {
        axis,
        value: value.to_owned(),
        known: entries.iter().map(|entry| id(entry).clone()).collect(),
    })
}

/// `a, b or c`.
fn or(words: &[String]) -> String {
    match words {
        [] => "nothing".to_owned(),
        [one] => one.clone(),
        [first @ .., last] => format!("{} or {last}", first.join(", ")),
    }
}
