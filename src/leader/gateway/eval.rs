//! EVAL and its kin, and SCRIPT: scripts that clients send, with the ids that they work on.

use tokio::time::Instant;

use super::refused::{SYNTAX, error};
use super::run::{BAD_COMMAND, outcome};
use super::script::{Call, Sha, Source};
use super::session::{Session, keys_of};
use super::{OK, help};
use crate::error::Refusal;
use crate::leader::transaction::{Need, Transaction};
use crate::protocol::resp::{Value, Words};
use crate::protocol::table::{ScriptOp, Spec};

const NO_SCRIPT: &str = "NOSCRIPT No matching script. Please use EVAL.";

impl Session {
    pub(super) async fn run_script(&mut self, op: ScriptOp, spec: &Spec, words: &Words) -> Result<Value, String> {
        if op == ScriptOp::Script {
            return self.tell_of_scripts(words).await;
        }
        let call = self.script_call(op, spec, words).await.inspect_err(|_| self.count_wrong([Some(BAD_COMMAND)]))?;
        let writes = !call.reads_only;
        let began = Instant::now();
        let done = self.call_script(call).await;
        self.count(writes, began, [outcome(writes, &done)]);
        done.map_err(|why| self.told(why))
    }

    /// What a request asks to be run.
    pub(super) async fn script_call(&self, op: ScriptOp, spec: &Spec, words: &Words) -> Result<Call, String> {
        let keys = keys_of(spec, words)?;
        let args = words[3 + keys.len()..].to_vec();
        let script = match op {
            ScriptOp::EvalSha | ScriptOp::EvalShaRo => {
                let sha = Sha::read(&words[1]).ok_or(NO_SCRIPT)?;
                self.door.scripts.find(&sha).ok_or(NO_SCRIPT)?
            }
            _ => self.door.scripts.load(&words[1], Source::Evaluated).await?,
        };
        let reads_only = matches!(op, ScriptOp::EvalRo | ScriptOp::EvalShaRo);
        let (rights, max_message) = (self.rights.clone(), self.door.settings.max_message);
        Ok(Call { script, keys, args, reads_only, rights, max_message })
    }

    /// Runs a script at one instant.
    async fn call_script(&mut self, call: Call) -> Result<Value, Refusal> {
        let needs: Vec<_> = call.keys.iter().map(|id| (id.clone(), Need::Message)).collect();
        let (scripts, share) = (self.door.scripts.clone(), self.share.clone());
        let decide = move |mut transaction: Transaction| async move {
            let work = move |interpreter: &mut _, killed: &_| {
                let told = transaction.attempt(|transaction| {
                    let value = super::script::Interpreter::run(interpreter, &call, killed, transaction)?;
                    let room = share.room(value.size()).ok_or("OOM too many bytes are under way; nothing was written");
                    Ok((value, room?))
                });
                (transaction, told)
            };
            scripts.run(work).await
        };
        let told = self.coordinator.transact_apart(needs, decide).await?;
        Ok(told.map_or_else(Value::Error, |(value, room)| {
            self.room = Some(room);
            value
        }))
    }

    async fn tell_of_scripts(&mut self, words: &Words) -> Result<Value, String> {
        let scripts = &self.door.scripts;
        Ok(match (words[1].to_ascii_uppercase().as_slice(), words.len()) {
            (b"HELP", 2) => help::of("SCRIPT", help::SCRIPT),
            (b"LOAD", 3) => Value::text(scripts.load(&words[2], Source::Loaded).await?.sha.to_string()),
            (b"EXISTS", _) => {
                let is_known = |word: &bytes::Bytes| Sha::read(word).is_some_and(|sha| scripts.is_known(&sha));
                Value::Array(words[2..].iter().map(|word| Value::Integer(is_known(word).into())).collect())
            }
            (b"FLUSH", count) => {
                let how = words.get(2).map(|word| word.to_ascii_uppercase());
                if count > 3 || how.is_some_and(|how| how != b"ASYNC" && how != b"SYNC") {
                    return error("ERR SCRIPT FLUSH only support SYNC|ASYNC option");
                }
                scripts.flush();
                OK
            }
            (b"KILL", 2) if scripts.kill() > 0 => OK,
            (b"KILL", 2) => return error("NOTBUSY No scripts in execution right now."),
            (b"DEBUG", 3) if words[2].eq_ignore_ascii_case(b"NO") => OK,
            (b"DEBUG", 3) if [&b"YES"[..], b"SYNC"].iter().any(|how| words[2].eq_ignore_ascii_case(how)) => {
                return error("ERR there is no debugger for scripts here");
            }
            (b"DEBUG", 3) => return error("ERR Use SCRIPT DEBUG YES/SYNC/NO"),
            _ => return error(SYNTAX),
        })
    }
}
