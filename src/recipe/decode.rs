//! JSON and TOML into Starlark values.

use starlark::values::dict::AllocDict;
use starlark::values::{Heap, Value};

/// Objects become dictionaries with their keys sorted.
pub(super) fn json<'v>(heap: Heap<'v>, value: serde_json::Value) -> Value<'v> {
    match value {
        serde_json::Value::Null => Value::new_none(),
        serde_json::Value::Bool(flag) => Value::new_bool(flag),
        serde_json::Value::Number(number) => match number.as_i64() {
            Some(integer) => heap.alloc(integer),
            None => heap.alloc(number.as_f64().unwrap_or(f64::INFINITY)),
        },
        serde_json::Value::String(text) => heap.alloc(text),
        serde_json::Value::Array(items) => {
            let items: Vec<Value<'v>> = items.into_iter().map(|item| json(heap, item)).collect();
            heap.alloc(items)
        }
        serde_json::Value::Object(entries) => {
            let entries = entries.into_iter().map(|(key, value)| (key, json(heap, value)));
            heap.alloc(AllocDict(entries.collect::<Vec<_>>()))
        }
    }
}
