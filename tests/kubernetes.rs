//! The manifests, the image's recipe and the memory limit: what an operator deploys fits together and fits Kubernetes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use armiger::app::{Options, Running, Source};
use armiger::config;
use armiger::machine::Machine;
use armiger::policy::Blocks;
use armiger::snapshot::Document;
use serde_json::{Value, json};

use crate::harness::{Armiger, Client, within};

/// What can be applied: with `kubectl apply -k deploy/kubernetes/NAME`.
const BUILDS: [&str; 3] = ["base", "overlays/plain", "overlays/prometheus-operator"];

/// The API of Kubernetes as JSON Schema; the file says where it is from.
const SCHEMA: &str = include_str!("kubernetes/schema.json");

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn yaml(text: &str, name: &str) -> Value {
    serde_saphyr::from_str(text).unwrap_or_else(|error| panic!("{name}: {error}"))
}

// === kustomize, as far as the project uses it ===

/// What `kubectl kustomize` makes of a folder below `deploy/kubernetes`. Fails on what it does not know, so that a
/// misspelt key is not passed over.
fn build(folder: &str) -> Vec<Value> {
    build_at(&Path::new("deploy/kubernetes").join(folder))
}

fn build_at(folder: &Path) -> Vec<Value> {
    let name = folder.join("kustomization.yaml").display().to_string();
    let kustomization = yaml(&read(&name), &name);
    let mut built = Vec::new();
    for (key, value) in kustomization.as_object().unwrap() {
        match key.as_str() {
            "apiVersion" => assert_eq!(value, "kustomize.config.k8s.io/v1beta1", "{name}"),
            "kind" => assert_eq!(value, "Kustomization", "{name}"),
            "resources" => {
                for entry in texts(value) {
                    let path = folder.join(entry);
                    if root().join(&path).is_dir() {
                        built.extend(build_at(&path));
                    } else {
                        built.push(yaml(&read(&path), entry));
                    }
                }
            }
            "configMapGenerator" => built.extend(value.as_array().unwrap().iter().map(|map| config_map(folder, map))),
            "patches" => {}
            other => panic!("{name}: `{other}` is not known here; is it spelt right?"),
        }
    }
    for patch in kustomization["patches"].as_array().into_iter().flatten() {
        let (kind, target) = (&patch["target"]["kind"], &patch["target"]["name"]);
        let found = built.iter_mut().find(|one| one["kind"] == *kind && one["metadata"]["name"] == *target);
        let found = found.unwrap_or_else(|| panic!("{name}: no {kind} {target} to patch"));
        for operation in yaml(patch["patch"].as_str().unwrap(), &name).as_array().unwrap() {
            apply(found, operation);
        }
    }
    built
}

fn config_map(folder: &Path, generator: &Value) -> Value {
    assert_eq!(generator["options"]["disableNameSuffixHash"], true, "a hash makes every edit a rollout: {generator}");
    let data: BTreeMap<&str, String> = texts(&generator["files"]).map(|file| (file, read(folder.join(file)))).collect();
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": generator["name"]}, "data": data})
}

/// One operation of a JSON Patch (RFC 6902).
fn apply(document: &mut Value, operation: &Value) {
    let path = operation["path"].as_str().unwrap();
    match operation["op"].as_str().unwrap() {
        "remove" => drop(take(document, path)),
        "move" => {
            let moved = take(document, operation["from"].as_str().unwrap());
            let (parent, at) = path.rsplit_once('/').unwrap();
            let list = document.pointer_mut(parent).and_then(Value::as_array_mut).expect("moved into a list");
            list.insert(at.parse().unwrap(), moved);
        }
        other => panic!("the operation `{other}` is not known here"),
    }
}

fn take(document: &mut Value, path: &str) -> Value {
    let (parent, key) = path.rsplit_once('/').unwrap();
    let key = key.replace("~1", "/");
    match document.pointer_mut(parent) {
        Some(Value::Array(items)) => items.remove(key.parse().unwrap()),
        Some(Value::Object(entries)) => entries.shift_remove(&key).unwrap_or_else(|| panic!("nothing at {path}")),
        _ => panic!("nothing at {parent}"),
    }
}

fn texts(list: &Value) -> impl Iterator<Item = &str> {
    list.as_array().into_iter().flatten().map(|item| item.as_str().expect("text"))
}

fn find<'a>(built: &'a [Value], kind: &str) -> &'a Value {
    built.iter().find(|one| one["kind"] == kind).unwrap_or_else(|| panic!("there is no {kind}"))
}

// === the parts that the tests look at ===

struct Pod {
    spec: Value,
    annotations: Value,
}

impl Pod {
    fn of(built: &[Value]) -> Self {
        let template = &find(built, "Deployment")["spec"]["template"];
        Self { spec: template["spec"].clone(), annotations: template["metadata"]["annotations"].clone() }
    }

    fn containers(&self) -> impl Iterator<Item = &Value> {
        ["initContainers", "containers"].into_iter().flat_map(|key| self.spec[key].as_array().into_iter().flatten())
    }

    fn container(&self, name: &str) -> &Value {
        self.containers().find(|one| one["name"] == name).unwrap_or_else(|| panic!("no container {name}"))
    }
}

/// armiger's own configuration, as the pod sees it.
fn document(built: &[Value]) -> Document {
    let text = find(built, "ConfigMap")["data"]["config.yaml"].as_str().expect("the ConfigMap has config.yaml");
    config::load_str::<Blocks>("config.yaml", text).unwrap_or_else(|report| panic!("{}", report.text(false))).document
}

/// The number of a container's port, which may be given by its name.
fn port_of(container: &Value, port: &Value) -> u64 {
    let named = |name| container["ports"].as_array().into_iter().flatten().find(|one| one["name"] == name);
    port.as_str().map_or_else(|| port.as_u64().unwrap(), |name| named(name).unwrap()["containerPort"].as_u64().unwrap())
}

/// Seconds that a container's `preStop` may take.
fn pre_stop(container: &Value) -> Option<u64> {
    let hook = &container["lifecycle"]["preStop"];
    hook["sleep"]["seconds"].as_u64().or_else(|| {
        let command: Vec<&str> = texts(&hook["exec"]["command"]).collect();
        let timeout = command.iter().position(|word| *word == "--timeout")?;
        command[timeout + 1].strip_suffix('s')?.parse().ok()
    })
}

// === Kubernetes takes them ===

#[test]
fn the_api_takes_every_manifest() {
    for folder in BUILDS {
        let built = build(folder);
        assert!(built.len() >= 4, "{folder}: {built:#?}");
        for manifest in &built {
            assert_eq!(wrong(manifest), [""; 0], "{folder}");
        }
    }
}

#[test]
fn the_api_takes_what_the_page_shows() {
    let page = read("docs/kubernetes.md");
    let shown: Vec<Value> =
        page.split("```yaml\n").skip(1).map(|rest| yaml(rest.split("```").next().unwrap(), "page")).collect();

    assert!(!shown.is_empty());
    for manifest in shown {
        assert_eq!(wrong(&manifest), [""; 0]);
    }
}

/// A check that finds nothing proves nothing: each of these is refused, and the message says where.
#[test]
fn a_broken_manifest_is_refused() {
    let armiger = "/spec/template/spec/initContainers/0";
    for (at, key, value, message) in [
        ("", "kind", json!("Deploymint"), "apps/v1/Deploymint is not known"),
        ("", "speck", json!({}), "/speck is not known"),
        ("/spec", "replicas", json!("2"), "/spec/replicas is not a \"integer\""),
        ("/spec", "selector", json!(null), "/spec/selector is null"),
        (armiger, "restartpolicy", json!("Always"), "initContainers/0/restartpolicy is not known"),
        (armiger, "image", json!(["a"]), "initContainers/0/image is not a \"string\""),
        (armiger, "args", json!("run"), "initContainers/0/args is not a \"array\""),
        (armiger, "name", Value::Null, "initContainers/0/name is null"),
        ("/spec/template/spec/containers/0/lifecycle/preStop/sleep", "second", json!(1), "sleep/second is not known"),
        ("/spec/template/spec/containers/0/ports", "0", json!({"name": "http"}), "ports/0/containerPort is missing"),
        ("/spec/template/metadata/annotations", "prometheus.io/port", json!(9902), "is not a \"string\""),
    ] {
        let mut manifest = find(&build("base"), "Deployment").clone();
        if at.ends_with("/ports") {
            manifest["spec"]["template"]["spec"]["containers"][0]["ports"] = json!([{}]);
        }
        match manifest.pointer_mut(at).unwrap() {
            Value::Array(items) => items[0] = value,
            entries => entries[key] = value,
        }

        let found = wrong(&manifest);

        assert!(found.iter().any(|line| line.ends_with(message)), "{key}: {found:#?}");
    }
    for missing in ["/spec/template/spec/containers/0/name", "/spec/selector", "/spec/template"] {
        let mut manifest = find(&build("base"), "Deployment").clone();
        take(&mut manifest, missing);
        assert_eq!(wrong(&manifest), [format!("{missing} is missing")]);
    }
}

/// Everything in a manifest that the API would refuse, or would drop without a word.
fn wrong(manifest: &Value) -> Vec<String> {
    let schema: Value = serde_json::from_str(SCHEMA).unwrap();
    let kind = format!("{}/{}", manifest["apiVersion"].as_str().unwrap(), manifest["kind"].as_str().unwrap());
    let mut found = Vec::new();
    // Not part of Kubernetes; its custom resource, as far as the project uses it.
    let own = json!({"definitions": {"PodMonitor": pod_monitor()}, "kinds": {"monitoring.coreos.com/v1/PodMonitor": "PodMonitor"}});
    let source = [&schema, &own].into_iter().find(|source| source["kinds"].get(&kind).is_some());
    match source {
        Some(source) => {
            let mut check = Check { schema: &schema, found: &mut found };
            let name = source["kinds"][&kind].as_str().unwrap();
            check.value(&source["definitions"][name], manifest, "");
        }
        None => found.push(format!("{kind} is not known")),
    }
    found
}

fn pod_monitor() -> Value {
    let text = json!({"type": "string"});
    let endpoint = json!({
        "type": "object", "additionalProperties": false, "required": ["port"],
        "properties": {"port": text, "path": text, "interval": text, "scrapeTimeout": text, "scheme": text},
    });
    json!({
        "type": "object", "additionalProperties": false, "required": ["spec"],
        "properties": {
            "apiVersion": text, "kind": text, "metadata": {"$ref": "apis.meta.v1.ObjectMeta"},
            "spec": {
                "type": "object", "additionalProperties": false, "required": ["selector", "podMetricsEndpoints"],
                "properties": {
                    "selector": {"$ref": "apis.meta.v1.LabelSelector"},
                    "podMetricsEndpoints": {"type": "array", "items": endpoint},
                },
            },
        },
    })
}

/// JSON Schema, as far as `schema.json` uses it. It knows no others than these keywords, or it would pass over one.
struct Check<'a> {
    schema: &'a Value,
    found: &'a mut Vec<String>,
}

impl Check<'_> {
    fn value(&mut self, schema: &Value, value: &Value, path: &str) {
        // The API drops a null; whoever wrote one meant something.
        if value.is_null() {
            return self.found.push(format!("{path} is null"));
        }
        let all = self.schema;
        for (keyword, given) in schema.as_object().expect("a schema") {
            match keyword.as_str() {
                "$ref" => self.value(&all["definitions"][given.as_str().unwrap()], value, path),
                "type" => {
                    let kinds = given.as_array().map_or(std::slice::from_ref(given), Vec::as_slice);
                    if !kinds.iter().any(|kind| is(kind, value)) {
                        self.found.push(format!("{path} is not a {}", kinds[0]));
                    }
                }
                "oneOf" => {
                    let fits = given.as_array().unwrap().iter().filter(|one| {
                        let mut found = Vec::new();
                        Check { schema: all, found: &mut found }.value(one, value, path);
                        found.is_empty()
                    });
                    if fits.count() != 1 {
                        self.found.push(format!("{path} is of no kind that fits"));
                    }
                }
                "enum" => {
                    if !given.as_array().unwrap().contains(value) {
                        self.found.push(format!("{path} is none of {given}"));
                    }
                }
                "required" => {
                    for key in texts(given).filter(|key| value.get(key).is_none()) {
                        self.found.push(format!("{path}/{key} is missing"));
                    }
                }
                "items" => {
                    for (place, item) in value.as_array().into_iter().flatten().enumerate() {
                        self.value(given, item, &format!("{path}/{place}"));
                    }
                }
                "properties" | "additionalProperties" if keyword == "properties" || schema["properties"].is_null() => {
                    for (key, entry) in value.as_object().into_iter().flatten() {
                        let at = format!("{path}/{key}");
                        match (schema["properties"].get(key), &schema["additionalProperties"]) {
                            (Some(known), _) => self.value(known, entry, &at),
                            (None, rest @ Value::Object(_)) => self.value(rest, entry, &at),
                            (None, _) => self.found.push(format!("{at} is not known")),
                        }
                    }
                }
                "additionalProperties" | "format" => {}
                other => panic!("the keyword `{other}` is not known here"),
            }
        }
    }
}

fn is(kind: &Value, value: &Value) -> bool {
    match kind.as_str().expect("a type has a name") {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "null" => value.is_null(),
        other => panic!("the type `{other}` is not known here"),
    }
}

// === they fit together ===

#[test]
fn every_file_is_part_of_a_build() {
    fn files(folder: &Path) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
    }
    for file in files(&root().join("deploy/kubernetes")) {
        let name = file.file_name().unwrap().to_str().unwrap();
        let index = read(file.with_file_name("kustomization.yaml"));
        assert!(name == "kustomization.yaml" || index.contains(name), "{} is named nowhere", file.display());
    }
}

#[test]
fn armiger_takes_the_config_map() {
    for folder in BUILDS {
        let built = build(folder);
        // As the kubelet lays it out: a directory whose files are links through `..data`.
        let mount = tempfile::tempdir().unwrap();
        std::fs::create_dir(mount.path().join("..2026")).unwrap();
        std::os::unix::fs::symlink("..2026", mount.path().join("..data")).unwrap();
        for (name, text) in find(&built, "ConfigMap")["data"].as_object().unwrap() {
            std::fs::write(mount.path().join("..2026").join(name), text.as_str().unwrap()).unwrap();
            std::os::unix::fs::symlink(Path::new("..data").join(name), mount.path().join(name)).unwrap();
        }
        let pod = Pod::of(&built);
        let args: Vec<&str> = texts(&pod.container("armiger")["args"]).collect();
        let file = args.iter().find_map(|arg| arg.strip_prefix("/etc/armiger/")).expect("it names its file");

        let checked = Armiger::binary(&["check", "--config", mount.path().join(file).to_str().unwrap()]);

        checked.assert_code(0);
    }
}

#[test]
fn ports_and_probes_are_those_of_the_configuration() {
    for folder in BUILDS {
        let built = build(folder);
        let (pod, document) = (Pod::of(&built), document(&built));
        let (armiger, app) = (pod.container("armiger"), pod.container("app"));
        let listener = document.listeners[0].address.tcp().expect("a pod is reached by its address");
        let probes = document.probes.expect("the kubelet has something to ask").address;
        let port = |number: u16| json!(number);

        assert!(listener.ip().is_unspecified() && probes.ip().is_unspecified(), "reachable from outside of the pod");
        assert!(
            document.admin.address.tcp().is_some_and(|address| address.ip().is_loopback()),
            "admin asks for no password"
        );
        assert!(document.listeners[0].trusted_proxies.is_empty(), "nobody is trusted before the operator says so");
        for (probe, path) in [("startupProbe", "/readyz"), ("livenessProbe", "/livez"), ("readinessProbe", "/readyz")] {
            let get = &armiger[probe]["httpGet"];
            assert_eq!(get["path"], path, "{folder} {probe}");
            assert_eq!(port_of(armiger, &get["port"]), u64::from(probes.port()), "{folder} {probe}");
        }
        let exposed: Vec<u64> = pod
            .containers()
            .flat_map(|one| one["ports"].as_array().into_iter().flatten())
            .map(|port| port["containerPort"].as_u64().unwrap())
            .collect();
        assert_eq!(exposed, [u64::from(listener.port()), u64::from(probes.port())], "{folder}: no other port is named");
        for port in armiger["ports"].as_array().unwrap() {
            assert!(port["name"].as_str().unwrap().len() <= 15, "a longer name is refused: {port}");
        }
        // The app is asked through armiger, and hears where armiger sends requests.
        assert_eq!(app["readinessProbe"]["httpGet"]["port"], port(listener.port()), "{folder}");
        let listens = texts(&app["args"]).find_map(|arg| arg.strip_prefix("-listen=")).unwrap();
        assert_eq!(document.upstreams["app"].endpoints, [format!("http://{listens}")], "{folder}");

        let service = &find(&built, "Service")["spec"];
        assert_eq!(service["ports"][0]["targetPort"], port(listener.port()), "{folder}");
        let labels = &find(&built, "Deployment")["spec"]["template"]["metadata"]["labels"];
        assert_eq!(&service["selector"], labels, "{folder}");
        let policy = &find(&built, "NetworkPolicy")["spec"];
        assert_eq!(&policy["podSelector"]["matchLabels"], labels, "{folder}");
        let open: Vec<&Value> =
            policy["ingress"].as_array().unwrap().iter().map(|rule| &rule["ports"][0]["port"]).collect();
        assert_eq!(open, [&port(listener.port()), &port(probes.port())], "{folder}");

        if let Some(monitor) = built.iter().find(|one| one["kind"] == "PodMonitor") {
            let endpoint = &monitor["spec"]["podMetricsEndpoints"][0];
            assert_eq!(port_of(armiger, &endpoint["port"]), u64::from(probes.port()));
            assert_eq!(&monitor["spec"]["selector"]["matchLabels"], labels);
            assert_eq!(pod.annotations.get("prometheus.io/scrape"), None, "it would be scraped twice");
        } else {
            assert_eq!(pod.annotations["prometheus.io/port"], probes.port().to_string(), "{folder}");
        }
    }
}

#[test]
fn the_grace_period_covers_the_whole_drain() {
    for folder in BUILDS {
        let built = build(folder);
        let (pod, drain) = (Pod::of(&built), document(&built).drain);
        let grace = Duration::from_secs(pod.spec["terminationGracePeriodSeconds"].as_u64().unwrap());
        let app = Duration::from_secs(pre_stop(pod.container("app")).expect("the app has a preStop"));
        let wait = Duration::from_secs(pre_stop(pod.container("armiger")).expect("armiger has a preStop"));
        let (delay, timeout) = (drain.delay.get(), drain.timeout.get());

        assert!(grace >= app + delay + timeout + Duration::from_secs(5), "{folder}: {grace:?}");
        assert!(app > delay, "{folder}: the app must not go while armiger accepts requests for it");
        assert!(wait > delay + timeout, "{folder}: `drain --wait` gives up before armiger does");
        assert!(wait + Duration::from_secs(5) <= grace, "{folder}: `drain --wait` is cut off");
        let command: Vec<&str> = texts(&pod.container("armiger")["lifecycle"]["preStop"]["exec"]["command"]).collect();
        assert_eq!(command[..3], ["/armiger", "drain", "--wait"], "{folder}");
        // The program takes these flags.
        Armiger::binary(&[&command[1..], &["--help"]].concat()).assert_code(0);
    }
}

#[test]
fn nothing_is_mounted_in_a_way_that_never_updates() {
    for folder in BUILDS {
        let built = build(folder);
        for manifest in &built {
            let text = manifest.to_string();
            assert!(!text.contains("\"subPath"), "{folder}: what `subPath` mounts never changes");
            assert!(!text.contains("configMapKeyRef") && !text.contains("secretKeyRef"), "{folder}: nor do variables");
        }
        let pod = Pod::of(&built);
        let mounts = pod.container("armiger")["volumeMounts"].as_array().unwrap().clone();
        let config = mounts.iter().find(|mount| mount["name"] == "config").unwrap();
        assert_eq!(config["mountPath"], "/etc/armiger", "{folder}");
        let volume = pod.spec["volumes"].as_array().unwrap().iter().find(|one| one["name"] == "config").unwrap();
        assert_eq!(volume["configMap"]["name"], find(&built, "ConfigMap")["metadata"]["name"], "{folder}");
    }
}

#[test]
fn armiger_may_do_nothing_that_it_need_not() {
    for folder in BUILDS {
        let pod = Pod::of(&build(folder));
        let armiger = pod.container("armiger");

        assert_eq!(
            armiger["securityContext"],
            json!({
                "allowPrivilegeEscalation": false,
                "readOnlyRootFilesystem": true,
                "runAsNonRoot": true,
                "runAsUser": 65532,
                "runAsGroup": 65532,
                "capabilities": {"drop": ["ALL"]},
                "seccompProfile": {"type": "RuntimeDefault"},
            }),
            "{folder}"
        );
        assert_eq!(pod.spec["automountServiceAccountToken"], false, "{folder}");
        assert_eq!(pod.spec["enableServiceLinks"], false, "{folder}");
        assert_eq!(
            armiger["resources"],
            json!({"requests": {"cpu": "25m", "memory": "32Mi"}, "limits": {"memory": "128Mi"}}),
            "{folder}"
        );
        let set: Vec<&str> =
            armiger["env"].as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap()).collect();
        assert!(set.contains(&"ARMIGER_WORKERS"), "{folder}: without a CPU limit it sees the whole node");
    }
}

#[test]
fn the_plain_form_is_the_native_one_without_its_place() {
    let mut native = Pod::of(&build("base")).spec;
    let plain = Pod::of(&build("overlays/plain")).spec;

    assert_eq!(native["initContainers"][0]["restartPolicy"], "Always");
    assert_eq!(plain.get("initContainers"), None);
    assert_eq!(plain["containers"].as_array().unwrap().len(), 2);
    let mut moved = take(&mut native, "/initContainers/0");
    take(&mut moved, "/restartPolicy");
    take(&mut native, "/initContainers");
    native["containers"].as_array_mut().unwrap().insert(0, moved);
    assert_eq!(native, plain);
}

// === the image ===

/// An instruction of a Dockerfile, continued lines joined.
#[derive(Debug)]
struct Instruction {
    name: String,
    rest: String,
}

fn instructions(text: &str) -> Vec<Instruction> {
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim_start().starts_with('#')).collect();
    let joined = lines.join("\n").replace("\\\n", " ");
    let split = joined.lines().filter_map(|line| line.trim().split_once(' '));
    split.map(|(name, rest)| Instruction { name: name.into(), rest: rest.trim().into() }).collect()
}

/// What is wrong with a Dockerfile.
fn lint(text: &str) -> Vec<String> {
    let all = instructions(text);
    let mut wrong = Vec::new();
    let mut stages = Vec::new();
    for Instruction { name, rest } in &all {
        match name.as_str() {
            "FROM" => {
                let image = rest.split_whitespace().find(|word| !word.starts_with("--")).unwrap_or_default();
                let tag = image.rsplit('/').next().and_then(|last| last.split_once(':')).map(|(_, tag)| tag);
                if tag.is_none_or(|tag| tag.is_empty() || tag == "latest") && !stages.contains(&image) {
                    wrong.push(format!("`{image}` may be another one tomorrow"));
                }
                stages.extend(rest.split_once(" AS ").map(|(_, name)| name));
            }
            "ADD" => wrong.push("ADD fetches and unpacks; COPY copies".into()),
            "ARG" | "ENV" if ["SECRET", "TOKEN", "PASSWORD", "_KEY"].iter().any(|word| rest.contains(word)) => {
                wrong.push(format!("`{rest}` stays in the image's history"));
            }
            "RUN" if rest.contains("curl ") || rest.contains("wget ") => wrong.push("a download is not pinned".into()),
            "ARG" | "ENV" | "RUN" | "WORKDIR" | "COPY" | "LABEL" | "USER" | "EXPOSE" | "ENTRYPOINT" | "CMD" => {}
            other => wrong.push(format!("`{other}` is not known here")),
        }
    }
    let last = all.iter().rposition(|one| one.name == "FROM").map_or(&all[..], |at| &all[at..]);
    let given = |name: &str| last.iter().rfind(|one| one.name == name).map(|one| one.rest.as_str());
    if all.iter().filter(|one| one.name == "FROM").count() < 2 {
        wrong.push("what builds is part of the image".into());
    }
    if given("RUN").is_some() {
        wrong.push("the last stage has nothing that could run".into());
    }
    if last.iter().any(|one| one.name == "COPY" && !one.rest.starts_with("--from=build ")) {
        wrong.push("the last stage takes more than what was built".into());
    }
    if given("USER") != Some("65532:65532") {
        wrong.push("USER is not the number 65532, so `runAsNonRoot` cannot tell".into());
    }
    if given("ENTRYPOINT") != Some(r#"["/armiger"]"#) || !given("CMD").is_some_and(|rest| rest.starts_with('[')) {
        wrong.push("a shell would be started, and there is none".into());
    }
    for label in ["title", "description", "licenses", "version", "revision"] {
        if !given("LABEL").is_some_and(|rest| rest.contains(&format!("org.opencontainers.image.{label}="))) {
            wrong.push(format!("the label {label} is missing"));
        }
    }
    wrong
}

#[test]
fn the_image_is_built_by_the_rules() {
    let text = read("Dockerfile");

    assert_eq!(lint(&text), [""; 0]);
    assert!(text.contains("$(deploy/dist/build --features jemalloc | tail -n 1)"));
    let built = read("deploy/dist/build");
    let built: Vec<&str> = built.lines().filter(|line| line.contains("cargo build")).collect();
    assert!(built.len() == 1 && built[0].contains("--locked --profile dist --bin armiger"), "{built:?}");
}

#[test]
fn a_careless_recipe_is_noticed() {
    let good = read("Dockerfile");
    for (from, to, message) in [
        ("rust:1.95.0-alpine AS", "rust:latest AS", "`rust:latest` may be another one tomorrow"),
        ("rust:1.95.0-alpine AS", "rust AS", "`rust` may be another one tomorrow"),
        ("USER 65532:65532", "USER nonroot", "USER is not the number"),
        ("USER 65532:65532", "", "USER is not the number"),
        ("COPY . .", "ADD . .", "ADD fetches"),
        ("USER 65532:65532", "RUN ls /\nUSER 65532:65532", "the last stage has nothing that could run"),
        ("USER 65532:65532", "COPY . .\nUSER 65532:65532", "the last stage takes more"),
        (r#"ENTRYPOINT ["/armiger"]"#, "ENTRYPOINT /armiger", "a shell would be started"),
        ("WORKDIR /armiger", "ARG REGISTRY_TOKEN=abc", "stays in the image's history"),
        ("image.licenses=", "image.license=", "the label licenses is missing"),
        ("EXPOSE 8080 9901 9902", "VOLUME /data", "`VOLUME` is not known"),
    ] {
        assert!(good.contains(from), "{from:?} is not there to be spoilt");
        let found = lint(&good.replace(from, to));
        assert!(found.iter().any(|line| line.contains(message)), "{to:?}: {found:#?}");
    }
}

#[test]
fn manifests_and_image_are_of_this_version() {
    let version = env!("CARGO_PKG_VERSION");
    for folder in BUILDS {
        let pod = Pod::of(&build(folder));
        assert_eq!(pod.container("armiger")["image"], format!("armiger:{version}"), "{folder}");
        for container in pod.containers() {
            let tag = container["image"].as_str().unwrap().rsplit_once(':').map(|(_, tag)| tag);
            assert!(tag.is_some_and(|tag| tag != "latest"), "{container:#}");
        }
    }
    assert!(read("Dockerfile").contains(&format!("ARG VERSION={version}\n")));
}

// === the memory limit ===

#[tokio::test]
async fn connections_are_fitted_to_the_memory_limit_and_told() {
    let text = "
listeners:
  - {name: http, address: 127.0.0.1:0}
  - {name: named, address: 127.0.0.1:0, limits: {connections_max: 5000}}
admin: {address: 127.0.0.1:0}
routes: [{name: a, match: {path: /a}, respond: {}}]
";
    let source = Source::Text { name: "test.yaml".into(), text: text.into() };
    let machine = Machine { processors: 1, memory: Some(128 << 20), files: None };
    let running = Running::start(Options { machine, ..Options::new(source) }).ok().unwrap();
    let admin = Client::to(running.admin().tcp().expect("the admin listener is on TCP"));

    let shown = admin.get("/config").await.assert_status(200).json();
    let metrics = admin.get("/metrics").await.assert_status(200).text().to_owned();

    let listeners = &shown["config"]["listeners"];
    assert_eq!(listeners[0]["limits"]["connections_max"], 2048, "{listeners:#}");
    assert_eq!(listeners[1]["limits"]["connections_max"], 5000, "what the user wrote stays: {listeners:#}");
    assert!(metrics.contains("\narmiger_memory_limit_bytes 134217728\n"), "{metrics}");
    within("armiger to stop", tokio::task::spawn_blocking(move || running.stop())).await.unwrap();
}
