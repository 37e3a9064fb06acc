//! What Rust source names: words and paths, without comments, texts and tests. Not a compiler: macros are taken as they are written, and a
//! name that is made by one is not seen.

/// A piece of source: a word, `::`, or any other sign.
type Token = String;

/// Cuts source into tokens. Comments, texts and characters fall out.
fn tokens(text: &str) -> Vec<Token> {
    let chars: Vec<char> = text.chars().collect();
    let word = |c: char| c.is_alphanumeric() || c == '_';
    let (mut out, mut at) = (Vec::new(), 0);
    let starts = |at: usize, what: &str| what.chars().enumerate().all(|(i, c)| chars.get(at + i) == Some(&c));
    while at < chars.len() {
        let c = chars[at];
        if starts(at, "//") {
            at += chars[at..].iter().position(|c| *c == '\n').unwrap_or(chars.len() - at);
        } else if starts(at, "/*") {
            let mut depth = 0;
            while at < chars.len() {
                (depth, at) = if starts(at, "/*") { (depth + 1, at + 2) } else if starts(at, "*/") { (depth - 1, at + 2) } else { (depth, at + 1) };
                if depth == 0 {
                    break;
                }
            }
        } else if let Some(hashes) = raw_text(&chars[at..]) {
            let end = format!("\"{}", "#".repeat(hashes));
            at += chars[at..].iter().position(|c| *c == '"').expect("a raw text has one") + 1;
            while at < chars.len() && !starts(at, &end) {
                at += 1;
            }
            at += end.len();
        } else if c == '"' {
            at += 1;
            while at < chars.len() && chars[at] != '"' {
                at += if chars[at] == '\\' { 2 } else { 1 };
            }
            at += 1;
        } else if c == '\'' && chars.get(at + 1) == Some(&'\\') {
            at += 3 + chars.get(at + 3..).and_then(|rest| rest.iter().position(|c| *c == '\'')).unwrap_or(0) + 1;
        } else if c == '\'' && chars.get(at + 2) == Some(&'\'') {
            at += 3;
        } else if word(c) {
            let end = at + chars[at..].iter().position(|c| !word(*c)).unwrap_or(chars.len() - at);
            // A lifetime, or the letter before a text (`b"…"`), is a word too; neither is a name of anything here.
            out.push(chars[at..end].iter().collect());
            at = end;
        } else if starts(at, "::") {
            out.push("::".into());
            at += 2;
        } else {
            if !c.is_whitespace() {
                out.push(c.into());
            }
            at += 1;
        }
    }
    out
}

/// How many `#` a raw text that begins here has. A raw word (`r#type`) is none.
fn raw_text(chars: &[char]) -> Option<usize> {
    let after = match chars {
        ['b' | 'c', 'r', rest @ ..] | ['r', rest @ ..] => rest,
        _ => return None,
    };
    let hashes = after.iter().take_while(|c| **c == '#').count();
    (after.get(hashes) == Some(&'"')).then_some(hashes)
}

/// All words.
pub fn words(text: &str) -> Vec<String> {
    tokens(text).into_iter().filter(|t| t.chars().all(|c| c.is_alphanumeric() || c == '_')).collect()
}

/// The source without what is compiled for tests only: `#[cfg(test)]` and the item after it. As text again, words apart.
pub fn without_tests(text: &str) -> String {
    let tokens = tokens(text);
    let mark = ["#", "[", "cfg", "(", "test", ")", "]"];
    let (mut out, mut at) = (Vec::new(), 0);
    while at < tokens.len() {
        if !(tokens.len() - at >= mark.len() && mark.iter().zip(&tokens[at..]).all(|(m, t)| m == t)) {
            out.push(tokens[at].clone());
            at += 1;
            continue;
        }
        let mut depth = 0;
        at += mark.len();
        while at < tokens.len() {
            let token = tokens[at].as_str();
            at += 1;
            match token {
                "{" | "(" | "[" => depth += 1,
                "}" | ")" | "]" => depth -= 1,
                _ => {}
            }
            if depth == 0 && (token == ";" || token == "}") {
                break;
            }
        }
    }
    out.join(" ")
}

/// Words that no path has in it, and that may stand before one that begins with `::`.
const KEYWORDS: [&str; 16] = ["as", "break", "const", "dyn", "else", "fn", "for", "if", "impl", "in", "let", "match", "mut", "ref", "return", "use"];

/// All paths, such as `std::fs::File`; those of `use std::{fs, net::*}` one by one. A single word is one, too.
pub fn paths(text: &str) -> Vec<String> {
    let tokens = tokens(text);
    let mut out = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let begins = !KEYWORDS.contains(&tokens[at].as_str()) && tokens[at].chars().all(|c| c.is_alphanumeric() || c == '_') || tokens[at] == "::";
        if begins {
            at = tree(&tokens, at, "", &mut out);
        } else {
            at += 1;
        }
    }
    out
}

/// Takes the path that begins at `at`, behind `before`, and gives where it ends.
fn tree(tokens: &[Token], mut at: usize, before: &str, out: &mut Vec<String>) -> usize {
    let mut path = before.to_string();
    loop {
        match tokens.get(at).map(String::as_str) {
            Some("::") => at += 1,
            // A branch belongs to a path only behind `::`.
            Some("{") if tokens[at - 1] == "::" => {
                at += 1;
                while at < tokens.len() && tokens[at] != "}" {
                    at = match tokens[at].as_str() {
                        "," => at + 1,
                        "as" => at + 2,
                        _ => tree(tokens, at, &path, out),
                    };
                }
                return at + 1;
            }
            Some(word) if word == "*" || word.chars().all(|c| c.is_alphanumeric() || c == '_') => {
                if !path.is_empty() {
                    path += "::";
                }
                path += word;
                at += 1;
                if tokens.get(at).map(String::as_str) != Some("::") {
                    out.push(path);
                    return at;
                }
            }
            // `::<T>`, or what this does not know: the path ends here, and what follows is looked at by itself.
            _ => {
                out.push(path);
                return at + 1;
            }
        }
    }
}

#[test]
fn paths_are_seen_however_they_are_written() {
    let check = |text: &str, expected: &[&str]| assert_eq!(paths(&without_tests(text)), expected, "{text}");
    check("std::fs::read(x)", &["std::fs::read", "x"]);
    check("use ::std::net;", &["std::net"]);
    check("use std::fs as files; x as ::std::net", &["std::fs", "files", "x", "std::net"]);
    check("use std::{fs, net::{self, TcpStream}, io::*};", &["std::fs", "std::net::self", "std::net::TcpStream", "std::io::*"]);
    check("use std::{\n    // fs,\n    fs as files,\n};", &["std::fs"]);
    check("let s = \"std::fs\"; /* std::net /* x */ */ // tokio", &["s"]);
    check("r#\"std::fs \" tokio\"# 'x' '\\n' '\\'' b\"tokio\" a", &["b", "a"]);
    check("fn f<'a>(x: &'a str) -> tokio::X<'a> {}", &["f", "a", "x", "a", "str", "tokio::X", "a"]);
    check("Vec::<std::fs::File>::new()", &["Vec", "std::fs::File", "new"]);
    check("a\n#[cfg(test)]\nmod tests {\n    use std::fs;\n    fn f() { [1; 2]; }\n}\nb", &["a", "b"]);
    check("#[cfg(test)] use std::fs; c", &["c"]);
}
