//! Reading the published table. It is part of the build, so whatever is wrong with it is wrong for ever: it panics.

use super::*;

impl Schema {
    pub(super) fn parse(text: &str) -> Schema {
        let table: Value = serde_json::from_str(text).expect("routes.json is JSON");
        let raw = table["types"].as_object().expect("routes.json has types");
        let names = raw.iter().filter(|(_, spec)| spec["kind"] != "alias");
        let names: HashMap<String, TypeId> = names.enumerate().map(|(id, (name, _))| (name.clone(), id)).collect();
        let mut loader = Loader { raw, names: &names, patterns: HashMap::new() };
        let mut types: Vec<Option<Type>> = names.iter().map(|_| None).collect();
        for (name, id) in &names {
            types[*id] = Some(loader.named(name));
        }
        let types = types.into_iter().map(|kind| kind.expect("every name was loaded")).collect();
        let routes = table["routes"].as_array().expect("routes.json has routes").iter();
        let routes = routes.map(|spec| loader.route(spec)).map(|route| (route.name.clone(), route)).collect();
        Schema { routes, types, names }
    }
}

struct Loader<'a> {
    raw: &'a Map<String, Value>,
    names: &'a HashMap<String, TypeId>,
    patterns: HashMap<String, Pattern>,
}

fn text(spec: &Value, key: &str) -> String {
    spec[key].as_str().expect("routes.json gives a text here").to_owned()
}

fn flag(spec: &Value, key: &str) -> bool {
    spec[key].as_bool().unwrap_or(false)
}

fn size(spec: &Value, key: &str) -> Option<usize> {
    spec[key].as_u64().map(|n| usize::try_from(n).expect("published lengths fit"))
}

impl Loader<'_> {
    fn route(&mut self, spec: &Value) -> RouteSpec {
        let host = match text(spec, "host").as_str() {
            "content.dropboxapi.com" => Host::Content,
            "notify.dropboxapi.com" => Host::Notify,
            _ => Host::Api,
        };
        let style = match text(spec, "style").as_str() {
            "upload" => Style::Upload,
            "download" => Style::Download,
            _ => Style::Rpc,
        };
        let plain = format!("{}/{}", text(spec, "namespace"), text(spec, "name"));
        let version = spec["version"].as_u64().expect("a route has a version");
        RouteSpec {
            name: text(spec, "url_path").trim_start_matches("/2/").to_owned(),
            label: if version > 1 { format!("{plain}:{version}") } else { plain },
            host,
            style,
            auth: spec["auth"].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect(),
            scope: spec["scope"].as_str().map(str::to_owned),
            deprecated: flag(spec, "deprecated"),
            allow_app_folder_app: flag(spec, "allow_app_folder_app"),
            select_admin_mode: spec["select_admin_mode"].as_str().map(str::to_owned),
            arg: text(spec, "arg"),
            result: text(spec, "result"),
            error: text(spec, "error"),
            arg_is_void: spec["arg"] == "Void",
            arg_type: self.kind(&text(spec, "arg"), &Value::Null),
            result_type: self.kind(&text(spec, "result"), &Value::Null),
            error_type: self.kind(&text(spec, "error"), &Value::Null),
        }
    }

    fn named(&mut self, name: &str) -> Type {
        let spec = &self.raw[name];
        if spec["kind"] == "union" {
            let variants = spec["variants"].as_array().into_iter().flatten();
            let variants = variants.filter(|variant| variant.get("only_for_caller").is_none());
            return Type::Union { variants: variants.map(|variant| self.variant(variant)).collect() };
        }
        let subtypes = spec["subtypes"].as_object().into_iter().flatten();
        let subtypes = subtypes.map(|(tag, name)| (tag.clone(), self.names[name.as_str().expect("a type's name")]));
        let subtypes = subtypes.collect();
        let mut fields = Vec::new();
        let mut next = Some(spec);
        while let Some(spec) = next {
            let own = spec["fields"].as_array().into_iter().flatten();
            let own = own.filter(|field| field.get("only_for_caller").is_none());
            fields.splice(0..0, own.map(|field| self.field(field)).collect::<Vec<_>>());
            next = spec["parent"].as_str().map(|parent| &self.raw[parent]);
        }
        Type::Struct { fields, subtypes }
    }

    fn field(&mut self, spec: &Value) -> Field {
        let type_name = text(spec, "type");
        Field {
            name: text(spec, "name"),
            optional: flag(spec, "optional") || self.nullable_alias(&type_name),
            nullable: flag(spec, "nullable") || self.nullable_alias(&type_name),
            default: spec.get("default").cloned(),
            kind: self.kind(&type_name, spec),
        }
    }

    fn variant(&mut self, spec: &Value) -> Variant {
        let kind = spec["type"].as_str().map(|name| (self.kind(name, spec), self.nullable_alias(name)));
        Variant {
            tag: text(spec, "tag"),
            flat: spec["wire"] == "flat",
            nullable: flag(spec, "nullable") || kind.as_ref().is_some_and(|(_, nullable)| *nullable),
            kind: kind.map(|(kind, _)| kind),
        }
    }

    fn nullable_alias(&self, name: &str) -> bool {
        self.raw.get(name).is_some_and(|spec| spec["kind"] == "alias" && flag(spec, "nullable"))
    }

    /// `limits` is the object the type is written in; what it says goes before what the alias says.
    fn kind(&mut self, name: &str, limits: &Value) -> Kind {
        if let Some(item) = name.strip_prefix("List(").and_then(|rest| rest.strip_suffix(')')) {
            let item = Box::new(self.kind(item, &Value::Null));
            let (min, max) = (size(limits, "min_items"), size(limits, "max_items"));
            return Kind::List { item, min: min.unwrap_or(0), max: max.unwrap_or(usize::MAX) };
        }
        if let Some(inner) = name.strip_suffix('?') {
            return Kind::Nullable(Box::new(self.kind(inner, limits)));
        }
        let integer = |min: i128, max: i128| {
            let limit = |key: &str| limits[key].as_i64().map(i128::from).or(limits[key].as_u64().map(i128::from));
            Kind::Integer { min: limit("min").unwrap_or(min), max: limit("max").unwrap_or(max) }
        };
        match name {
            "Void" => Kind::Void,
            "Boolean" => Kind::Boolean,
            "UInt64" => integer(0, i128::from(u64::MAX)),
            "UInt32" => integer(0, i128::from(u32::MAX)),
            "Int64" => integer(i128::from(i64::MIN), i128::from(i64::MAX)),
            "Int32" => integer(i128::from(i32::MIN), i128::from(i32::MAX)),
            "Float64" | "Float32" => Kind::Float {
                min: limits["min"].as_f64().unwrap_or(f64::NEG_INFINITY),
                max: limits["max"].as_f64().unwrap_or(f64::INFINITY),
            },
            "String" | "Bytes" => Kind::Text {
                min: size(limits, "min_length").unwrap_or(0),
                max: size(limits, "max_length").unwrap_or(usize::MAX),
                pattern: limits["pattern"].as_str().map(|text| self.pattern(text)),
            },
            "Timestamp" => {
                Kind::Time { format: if limits["format"] == "%Y-%m-%d" { "%Y-%m-%d" } else { "%Y-%m-%dT%H:%M:%SZ" } }
            }
            _ => match self.raw.get(name) {
                Some(spec) if spec["kind"] == "alias" => {
                    let mut merged = spec.as_object().expect("an alias is an object").clone();
                    for (key, value) in limits.as_object().into_iter().flatten() {
                        merged.insert(key.clone(), value.clone());
                    }
                    let inner = text(spec, "type");
                    self.kind(&inner, &Value::Object(merged))
                }
                Some(_) => Kind::Named(self.names[name]),
                None => panic!("routes.json names the type '{name}' and does not describe it"),
            },
        }
    }

    fn pattern(&mut self, text: &str) -> Pattern {
        let new = || Pattern {
            text: text.into(),
            regex: Arc::new(Regex::new(&format!(r"\A(?:{text})\z")).expect("published patterns are plain")),
        };
        self.patterns.entry(text.to_owned()).or_insert_with(new).clone()
    }
}
