//! The problem codes of labs, and what `bowline help CODE` says of them. A code is never reused.

/// Number, one line, and a few lines more for each code, ascending.
pub const CODES: &[(u16, &str, &str)] = &[
    (1001, "the lab's options do not fit together", "`where` names the flag, `why` what is wrong with it. Nothing has been made."),
    (
        1002,
        "a lab needs root",
        "A lab makes network, mount and cgroup namespaces and mounts file systems inside them. Run the command with sudo.\n\
                                Nothing outside its namespaces is touched, but for /run/bowline-lab/NAME and a cgroup of the lab's name.",
    ),
    (
        1003,
        "the machine refused what a lab needs",
        "A namespace, mount or cgroup could not be made: `why` has the kernel's own error. Inside a container,\n\
                                the container needs the rights of the machine's root; elsewhere, the kernel lacks overlayfs, bpffs or cgroup2.",
    ),
    (1004, "a lab of this name is up", "`bowline lab list` shows all labs. Several can be up side by side under different names."),
    (
        1005,
        "the lab did not come up",
        "The step that failed is named, with the end of the lab's log. The logs stay in /run/bowline-lab/NAME/logs until the\n\
                                next `lab up` or `lab down` of that name; everything else has been removed.",
    ),
    (1006, "a node's agent ended", "The agent of that node ended by itself while the lab came up; its last lines are shown."),
    (1007, "the lab was not ready in time", "`where` names the step that was waited for. Slow machines need a longer --wait."),
    (
        1008,
        "the lab is not up",
        "There is no running lab of that name, or it has left nothing to show. `bowline lab list` shows what there is.",
    ),
    (1009, "the lab could not do it", "The lab is up, but what was asked for does not exist in it or did not work: see `why`."),
    (
        1010,
        "the API server given does not answer",
        "`lab up --apiserver FILE` asked the server of that kubeconfig, by way of the lab's relay, and was refused or not answered.\n\
                                The server must be reachable from this machine, and the kubeconfig must be an administrator's.",
    ),
];
