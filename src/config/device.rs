//! `device`: where to compute.

use std::fmt;
use std::str::FromStr;

use super::names::serde_as_text;
use super::schema::VARIABLE;
use super::section::KeyType;

/// The device to compute on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Device {
    /// The first GPU if there is one that works, else the CPU.
    Auto,
    /// The CPU.
    Cpu,
    /// The GPU with this index.
    Cuda(usize),
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(index) => write!(f, "cuda:{index}"),
        }
    }
}

impl FromStr for Device {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let index = text.strip_prefix("cuda:").and_then(|index| index.parse().ok());
        match (text, index) {
            ("auto", _) => Ok(Self::Auto),
            ("cpu", _) => Ok(Self::Cpu),
            ("cuda", _) => Ok(Self::Cuda(0)),
            (_, Some(index)) => Ok(Self::Cuda(index)),
            _ => Err(format!("must be auto, cpu, cuda or cuda:N, is {text}")),
        }
    }
}

serde_as_text!(Device);

impl KeyType for Device {
    fn schema() -> serde_json::Value {
        serde_json::json!({
            "type": "string",
            "pattern": format!("^(auto|cpu|cuda(:[0-9]+)?)$|{VARIABLE}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_parses_back_from_its_display() {
        for text in ["auto", "cpu", "cuda:0", "cuda:3"] {
            assert_eq!(text.parse::<Device>().unwrap().to_string(), text);
        }
        assert_eq!("cuda".parse(), Ok(Device::Cuda(0)));
        for text in ["", "CPU", "cuda:", "cuda:-1", "cuda:x", "mps"] {
            assert!(text.parse::<Device>().is_err(), "{text}");
        }
    }
}
