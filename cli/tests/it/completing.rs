//! `recompense completions`.

use crate::room::Room;

#[tokio::test]
async fn every_shell_gets_a_script_that_knows_the_commands() {
    let room = Room::empty("completions").await;
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = room.says(&format!("completions {shell}")).await;
        for word in [
            "recompense",
            "migrate",
            "rebase",
            "partition-bits",
            "token-file",
        ] {
            assert!(script.contains(word), "{shell} lacks {word}");
        }
    }
    room.refuses("completions nosh", 2, "must be one of bash, ")
        .await;
}
