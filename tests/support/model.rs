//! A language model of our own on 127.0.0.1, so that real agents can be run without a network or a key.
//!
//! It plays a script: each [`Turn`] is one tool call, put into the words of whichever agent asks, and the last
//! says something and ends the conversation. What it is asked is kept byte for byte ([`Model::heard`]), so a
//! test can look for a secret in everything that an agent gave away.
//!
//! It speaks Anthropic Messages (claude), OpenAI Responses (codex), OpenAI Chat Completions (opencode) and
//! Google `generateContent` (gemini), streaming or not. Agents ask for other things too (titles, model lists,
//! telemetry): a question without tools gets a short text, anything else 404.
//!
//! Which turn is next is not counted here but read from the question, which carries the results of all calls
//! made so far: a repeated request gets the same answer, and a question on the side disturbs nothing.

use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

/// One move of the model.
#[derive(Clone, Debug)]
pub enum Turn {
    /// Run a command line in the agent's shell tool.
    Shell(String),
    /// Create the file `path` (absolute) with `content`.
    Write { path: String, content: String },
    /// Replace the one line `old` of the file `path` (absolute) by `new`.
    Edit { path: String, old: String, new: String },
    /// Say something and end the conversation.
    Say(String),
}

/// One request as it came in.
#[derive(Clone, Debug)]
pub struct Heard {
    /// Request line and headers, undecoded.
    pub head: String,
    /// The body, undecoded.
    pub body: Vec<u8>,
}

impl Heard {
    /// True if `needle` occurs anywhere in it.
    pub fn contains(&self, needle: &str) -> bool {
        self.head.contains(needle) || self.body.windows(needle.len()).any(|window| window == needle.as_bytes())
    }
}

/// A running server; it stops taking connections when dropped.
pub struct Model {
    address: SocketAddr,
    state: Arc<State>,
}

struct State {
    stopped: AtomicBool,
    script: Mutex<Script>,
    heard: Mutex<Vec<Heard>>,
}

struct Script {
    /// Part of each call's id, so that results of an earlier script in a continued conversation do not count.
    run: usize,
    turns: Vec<Turn>,
}

impl Model {
    /// Starts a server on a free port of 127.0.0.1 that has nothing to say yet.
    pub fn start() -> Model {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State {
            stopped: AtomicBool::new(false),
            script: Mutex::new(Script { run: 0, turns: Vec::new() }),
            heard: Mutex::new(Vec::new()),
        });
        let accepting = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if accepting.stopped.load(Ordering::SeqCst) {
                    return;
                }
                let serving = Arc::clone(&accepting);
                // A connection ends when the agent closes it; errors mean that it has.
                std::thread::spawn(move || stream.and_then(|stream| serve(&serving, stream)));
            }
        });
        Model { address, state }
    }

    /// `http://127.0.0.1:PORT`, without a path.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Plays `turns` from now on and forgets what was heard.
    pub fn play(&self, turns: &[Turn]) {
        let mut script = self.state.script.lock().unwrap();
        script.run += 1;
        script.turns = turns.to_vec();
        self.state.heard.lock().unwrap().clear();
    }

    /// Every request since the last [`Model::play`], in order of arrival.
    pub fn heard(&self) -> Vec<Heard> {
        self.state.heard.lock().unwrap().clone()
    }
}

impl Drop for Model {
    fn drop(&mut self) {
        self.state.stopped.store(true, Ordering::SeqCst);
        // Wakes the accept loop, which then sees the flag.
        let _ = TcpStream::connect(self.address);
    }
}

/// Answers the requests of one connection, one after the other.
fn serve(state: &State, stream: TcpStream) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut writer = stream;
    while let Some(heard) = read_request(&mut reader)? {
        state.heard.lock().unwrap().push(heard.clone());
        let reply = reply(state, &heard);
        write!(
            writer,
            "HTTP/1.1 {}\r\nContent-Type: {}\r\nContent-Length: {}\r\n\r\n",
            reply.status,
            reply.content_type,
            reply.body.len()
        )?;
        // The answer to HEAD has the length of a body and no body.
        if !heard.head.starts_with("HEAD ") {
            writer.write_all(reply.body.as_bytes())?;
        }
        writer.flush()?;
    }
    Ok(())
}

fn read_request(reader: &mut impl BufRead) -> std::io::Result<Option<Heard>> {
    let mut head = String::new();
    loop {
        let before = head.len();
        if reader.read_line(&mut head)? == 0 {
            return Ok(None);
        }
        if head[before..].trim().is_empty() {
            break;
        }
    }
    let header = |name: &str| {
        head.lines().skip(1).find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
        })
    };
    let mut body = Vec::new();
    if header("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked")) {
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            let length = usize::from_str_radix(line.split(';').next().unwrap_or("").trim(), 16).unwrap_or(0);
            reader.take(length as u64).read_to_end(&mut body)?;
            // The line end after the chunk, or after the (absent) trailers.
            reader.read_line(&mut String::new())?;
            if length == 0 {
                break;
            }
        }
    } else if let Some(length) = header("content-length").and_then(|value| value.parse().ok()) {
        reader.take(length).read_to_end(&mut body)?;
    }
    Ok(Some(Heard { head, body }))
}

struct Reply {
    status: &'static str,
    content_type: &'static str,
    body: String,
}

impl Reply {
    fn json(value: &Value) -> Reply {
        Reply { status: "200 OK", content_type: "application/json", body: value.to_string() }
    }

    /// A stream of events; with `named`, each carries its `type` in an `event:` line as well.
    fn events(named: bool, events: &[Value]) -> Reply {
        let mut body = String::new();
        for event in events {
            if named {
                body.push_str(&format!("event: {}\n", event["type"].as_str().unwrap()));
            }
            body.push_str(&format!("data: {event}\n\n"));
        }
        Reply { status: "200 OK", content_type: "text/event-stream", body }
    }

    fn not_found() -> Reply {
        let body = json!({"error": {"type": "not_found_error", "code": 404, "message": "not here"}});
        Reply { status: "404 Not Found", ..Reply::json(&body) }
    }
}

fn reply(state: &State, heard: &Heard) -> Reply {
    let mut words = heard.head.split_whitespace();
    let (method, target) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
    let path = target.split('?').next().unwrap_or("");
    let question: Value = serde_json::from_slice(&heard.body).unwrap_or(Value::Null);
    let answer = |protocol: &Protocol| {
        let script = state.script.lock().unwrap();
        (protocol.answer)(&question, &script.next(protocol, &question))
    };
    match path {
        _ if method != "POST" => Reply::not_found(),
        _ if path.ends_with("/v1/messages/count_tokens") => Reply::json(&json!({"input_tokens": 100})),
        _ if path.ends_with("/v1/messages") => answer(&ANTHROPIC),
        _ if path.ends_with("/responses") => answer(&RESPONSES),
        _ if path.ends_with("/chat/completions") => answer(&CHAT),
        _ if path.ends_with(":countTokens") => Reply::json(&json!({"totalTokens": 100})),
        _ if path.ends_with(":streamGenerateContent") => answer(&GEMINI_STREAM),
        _ if path.ends_with(":generateContent") => answer(&GEMINI),
        _ => Reply::not_found(),
    }
}

/// What to say next: a turn, and the id of its call if it is one.
struct Next {
    turn: Turn,
    id: String,
}

impl Script {
    fn next(&self, protocol: &Protocol, question: &Value) -> Next {
        let prefix = format!("call_{}_", self.run);
        let asked_aside = question["tools"].as_array().is_none_or(Vec::is_empty);
        let done =
            (protocol.results)(question).iter().filter_map(|id| id.strip_prefix(&prefix)?.parse::<usize>().ok()).max();
        let index = done.map_or(0, |last| last + 1);
        let turn = match self.turns.get(index) {
            _ if asked_aside => Turn::Say("ok".to_owned()),
            Some(turn) => turn.clone(),
            None => Turn::Say("nothing left to do".to_owned()),
        };
        Next { turn, id: format!("{prefix}{index}") }
    }
}

/// How one kind of model interface is read and answered.
struct Protocol {
    /// The ids of all tool results in a question.
    results: fn(&Value) -> Vec<String>,
    answer: fn(&Value, &Next) -> Reply,
}

const ANTHROPIC: Protocol = Protocol { results: anthropic_results, answer: anthropic_answer };
const RESPONSES: Protocol = Protocol { results: responses_results, answer: responses_answer };
const CHAT: Protocol = Protocol { results: chat_results, answer: chat_answer };
const GEMINI: Protocol = Protocol { results: gemini_results, answer: |_, next| Reply::json(&gemini_answer(next)) };
const GEMINI_STREAM: Protocol =
    Protocol { results: gemini_results, answer: |_, next| Reply::events(false, &[gemini_answer(next)]) };

/// The elements of an array; none if it is not one.
fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or("").to_owned()
}

// Anthropic Messages, as claude asks it.

fn anthropic_results(question: &Value) -> Vec<String> {
    items(&question["messages"])
        .flat_map(|message| items(&message["content"]))
        .map(|block| text(&block["tool_use_id"]))
        .collect()
}

fn anthropic_answer(question: &Value, next: &Next) -> Reply {
    let call = |name: &str, input: Value| json!({"type": "tool_use", "id": next.id, "name": name, "input": input});
    let block = match &next.turn {
        Turn::Shell(command) => call("Bash", json!({"command": command, "description": "Run a command"})),
        Turn::Write { path, content } => call("Write", json!({"file_path": path, "content": content})),
        Turn::Edit { path, old, new } => call("Edit", json!({"file_path": path, "old_string": old, "new_string": new})),
        Turn::Say(words) => json!({"type": "text", "text": words}),
    };
    let stop = if block["type"] == "text" { "end_turn" } else { "tool_use" };
    let message = |content: Value, stop: Value| {
        json!({"id": format!("msg_{}", next.id), "type": "message", "role": "assistant", "model": question["model"],
            "content": content, "stop_reason": stop, "stop_sequence": null,
            "usage": {"input_tokens": 100, "output_tokens": 10}})
    };
    if question["stream"] != true {
        return Reply::json(&message(json!([block]), json!(stop)));
    }
    let (mut start, delta) = match &next.turn {
        Turn::Say(words) => (block.clone(), json!({"type": "text_delta", "text": words})),
        Turn::Shell(_) | Turn::Write { .. } | Turn::Edit { .. } => {
            (block.clone(), json!({"type": "input_json_delta", "partial_json": block["input"].to_string()}))
        }
    };
    if stop == "tool_use" {
        start["input"] = json!({});
    } else {
        start["text"] = json!("");
    }
    Reply::events(
        true,
        &[
            json!({"type": "message_start", "message": message(json!([]), Value::Null)}),
            json!({"type": "content_block_start", "index": 0, "content_block": start}),
            json!({"type": "content_block_delta", "index": 0, "delta": delta}),
            json!({"type": "content_block_stop", "index": 0}),
            json!({"type": "message_delta", "delta": {"stop_reason": stop, "stop_sequence": null},
                "usage": {"output_tokens": 10}}),
            json!({"type": "message_stop"}),
        ],
    )
}

// OpenAI Responses, as codex asks it.

fn responses_results(question: &Value) -> Vec<String> {
    items(&question["input"])
        .filter(|item| item["type"].as_str().is_some_and(|kind| kind.ends_with("_output")))
        .map(|item| text(&item["call_id"]))
        .collect()
}

/// codex's own patch notation for one file.
fn codex_patch(turn: &Turn) -> Option<String> {
    let prefixed = |sign: &str, lines: &str| lines.lines().map(|line| format!("{sign}{line}\n")).collect::<String>();
    let body = match turn {
        Turn::Write { path, content } => format!("*** Add File: {path}\n{}", prefixed("+", content)),
        Turn::Edit { path, old, new } => {
            format!("*** Update File: {path}\n@@\n{}{}", prefixed("-", old), prefixed("+", new))
        }
        Turn::Shell(_) | Turn::Say(_) => return None,
    };
    Some(format!("*** Begin Patch\n{body}*** End Patch\n"))
}

fn responses_answer(question: &Value, next: &Next) -> Reply {
    let offered = |name: &str| items(&question["tools"]).find(|tool| tool["name"] == name);
    let function = |name: &str, arguments: Value| json!({"type": "function_call", "call_id": next.id, "name": name, "arguments": arguments.to_string()});
    // Which shell tool codex offers depends on its version and on what it knows about the model.
    let shell = |command: &str| {
        if offered("exec_command").is_some() {
            function("exec_command", json!({"cmd": command, "yield_time_ms": 30_000}))
        } else if offered("shell_command").is_some() {
            function("shell_command", json!({"command": command}))
        } else {
            function("shell", json!({"command": ["bash", "-lc", command]}))
        }
    };
    let item = match (&next.turn, codex_patch(&next.turn)) {
        (Turn::Shell(command), _) => shell(command),
        (Turn::Say(words), _) => json!({"type": "message", "role": "assistant", "id": format!("msg_{}", next.id),
            "content": [{"type": "output_text", "text": words}]}),
        (Turn::Write { .. } | Turn::Edit { .. }, patch) => {
            let patch = patch.expect("a file turn has a patch");
            match offered("apply_patch").map(|tool| tool["type"] == "custom") {
                Some(true) => {
                    json!({"type": "custom_tool_call", "call_id": next.id, "name": "apply_patch", "input": patch})
                }
                Some(false) => function("apply_patch", json!({"input": patch})),
                None => shell(&format!("apply_patch <<'PATCH'\n{patch}PATCH\n")),
            }
        }
    };
    let id = format!("resp_{}", next.id);
    let usage = json!({"input_tokens": 100, "input_tokens_details": null, "output_tokens": 10,
        "output_tokens_details": null, "total_tokens": 110});
    Reply::events(
        true,
        &[
            json!({"type": "response.created", "response": {"id": id}}),
            json!({"type": "response.output_item.done", "output_index": 0, "item": item}),
            json!({"type": "response.completed", "response": {"id": id, "usage": usage}}),
        ],
    )
}

// OpenAI Chat Completions, as opencode asks it.

fn chat_results(question: &Value) -> Vec<String> {
    items(&question["messages"]).map(|message| text(&message["tool_call_id"])).collect()
}

fn chat_answer(question: &Value, next: &Next) -> Reply {
    let call = |name: &str, arguments: Value| {
        json!({"role": "assistant", "content": null, "tool_calls": [{"index": 0, "id": next.id, "type": "function",
            "function": {"name": name, "arguments": arguments.to_string()}}]})
    };
    let message = match &next.turn {
        Turn::Shell(command) => call("bash", json!({"command": command, "description": "Run a command"})),
        Turn::Write { path, content } => call("write", json!({"filePath": path, "content": content})),
        Turn::Edit { path, old, new } => call("edit", json!({"filePath": path, "oldString": old, "newString": new})),
        Turn::Say(words) => json!({"role": "assistant", "content": words}),
    };
    let finish = if message["tool_calls"].is_null() { "stop" } else { "tool_calls" };
    let frame = |object: &str, choice: Value| {
        json!({"id": format!("chat_{}", next.id), "object": object, "created": 0, "model": question["model"],
            "choices": [choice], "usage": {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}})
    };
    if question["stream"] != true {
        let choice = json!({"index": 0, "message": message, "finish_reason": finish});
        return Reply::json(&frame("chat.completion", choice));
    }
    let chunk = "chat.completion.chunk";
    let mut reply = Reply::events(
        false,
        &[
            frame(chunk, json!({"index": 0, "delta": message, "finish_reason": null})),
            frame(chunk, json!({"index": 0, "delta": {}, "finish_reason": finish})),
        ],
    );
    reply.body.push_str("data: [DONE]\n\n");
    reply
}

// Google generateContent, as gemini asks it.

fn gemini_results(question: &Value) -> Vec<String> {
    items(&question["contents"])
        .flat_map(|content| items(&content["parts"]))
        .map(|part| text(&part["functionResponse"]["id"]))
        .collect()
}

fn gemini_answer(next: &Next) -> Value {
    let call = |name: &str, args: Value| json!({"functionCall": {"id": next.id, "name": name, "args": args}});
    let part = match &next.turn {
        Turn::Shell(command) => call("run_shell_command", json!({"command": command, "description": "Run a command"})),
        Turn::Write { path, content } => call("write_file", json!({"file_path": path, "content": content})),
        Turn::Edit { path, old, new } => call(
            "replace",
            json!({"file_path": path, "old_string": old, "new_string": new, "instruction": "Replace the line"}),
        ),
        Turn::Say(words) => json!({"text": words}),
    };
    json!({"candidates": [{"content": {"role": "model", "parts": [part]}, "finishReason": "STOP", "index": 0}],
        "usageMetadata": {"promptTokenCount": 100, "candidatesTokenCount": 10, "totalTokenCount": 110}})
}
