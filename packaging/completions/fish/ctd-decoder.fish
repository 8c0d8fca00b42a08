# fish completion for ctd-decoder
set -l commands keyprovider config doctor
complete -c ctd-decoder -f
complete -c ctd-decoder -n "not __fish_seen_subcommand_from $commands" -a "$commands"
complete -c ctd-decoder -n "not __fish_seen_subcommand_from $commands" -l decryption-keys-path -r -a "(__fish_complete_directories)" -d "look for keys there"
complete -c ctd-decoder -n "not __fish_seen_subcommand_from $commands" -l keyprovider-config -rF -d "configures keyproviders"
complete -c ctd-decoder -n "not __fish_seen_subcommand_from $commands" -l release -x -a "streaming verified" -d "when plaintext leaves"
complete -c ctd-decoder -n "not __fish_seen_subcommand_from $commands" -l content-store -r -a "(__fish_complete_directories)" -d "root of containerd"
complete -c ctd-decoder -n "not __fish_seen_subcommand_from $commands" -l require-payload -d "do not look for a descriptor"
complete -c ctd-decoder -n "not __fish_seen_subcommand_from $commands" -l version -d "say which it is"
complete -c ctd-decoder -l help -d "say how it is used"
complete -c ctd-decoder -n "__fish_seen_subcommand_from keyprovider" -a "run serve"
complete -c ctd-decoder -n "__fish_seen_subcommand_from keyprovider" -l provider -x
complete -c ctd-decoder -n "__fish_seen_subcommand_from keyprovider" -l listen -x
complete -c ctd-decoder -n "__fish_seen_subcommand_from config" -a containerd
complete -c ctd-decoder -n "__fish_seen_subcommand_from config" -l config-version -x -a "2 3 4"
complete -c ctd-decoder -n "__fish_seen_subcommand_from config" -l keys-path -r -a "(__fish_complete_directories)"
complete -c ctd-decoder -n "__fish_seen_subcommand_from doctor" -l json -d "print JSON"
complete -c ctd-decoder -n "__fish_seen_subcommand_from doctor" -l containerd-config -rF
