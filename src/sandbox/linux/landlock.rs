//! Landlock: which rights a grant means on which ABI, and applying them to this process for good.
//!
//! In: a [`Ruleset`]. Out: a restricted process, or an error; never a partly applied set.

use landlock::{
    ABI, Access, AccessFs, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, RulesetAttr, RulesetCreatedAttr,
    RulesetStatus, Scope, make_bitflags,
};
use nix::errno::Errno;

use super::wire::StartError;
use crate::plan::{Grant, PathGrant, Ruleset};

/// The rights this guard knows stop at this version; a newer kernel offers them all.
fn known(abi: u32) -> ABI {
    match abi {
        0 => ABI::Unsupported,
        1 => ABI::V1,
        2 => ABI::V2,
        3 => ABI::V3,
        4 => ABI::V4,
        5 => ABI::V5,
        6 => ABI::V6,
        7 => ABI::V7,
        8 => ABI::V8,
        _ => ABI::V9,
    }
}

/// The rights a grant means.
fn rights(grant: &PathGrant, abi: ABI) -> BitFlags<AccessFs> {
    let all = AccessFs::from_all(abi);
    // Nobody makes device nodes, and a device in a granted tree takes no ioctls.
    let devices = make_bitflags!(AccessFs::{MakeChar | MakeBlock | IoctlDev});
    let rights = match grant.grant {
        Grant::List => AccessFs::ReadDir.into(),
        Grant::Read => make_bitflags!(AccessFs::{ReadFile | ReadDir | Execute}),
        Grant::ReadData => make_bitflags!(AccessFs::{ReadFile | ReadDir}),
        Grant::WriteData | Grant::Device => make_bitflags!(AccessFs::{ReadFile | ReadDir | WriteFile | Truncate}),
        Grant::Write => all & !devices,
        Grant::Terminal => make_bitflags!(AccessFs::{ReadFile | ReadDir | WriteFile | Truncate | IoctlDev}),
    };
    rights & if grant.dir { all } else { AccessFs::from_file(abi) }
}

/// Restricts this process and everything it starts.
pub(super) fn restrict(ruleset: &Ruleset) -> Result<(), StartError> {
    let abi = known(ruleset.abi);
    let failed = |what: String, error: &(dyn std::error::Error + 'static)| StartError::new(what, errno_of(error));
    let fault = |what: &str, e: &landlock::RulesetError| failed(what.to_owned(), e);
    let mut created = landlock::Ruleset::default()
        // Everything asked for exists in this version: less than all of it is an error, not a compromise.
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(abi))
        .map_err(|e| fault("cannot prepare Landlock's rules", &e))?;
    if abi >= ABI::V6 {
        created = created.scope(Scope::from_all(abi)).map_err(|e| fault("cannot prepare Landlock's scopes", &e))?;
    }
    let mut created = created.create().map_err(|e| fault("cannot make Landlock's rules", &e))?;
    for grant in &ruleset.paths {
        let what = || format!("cannot make Landlock's rule on {}", grant.path);
        let fd = PathFd::new(&grant.path).map_err(|e| failed(what(), &e))?;
        created = created.add_rule(PathBeneath::new(fd, rights(grant, abi))).map_err(|e| failed(what(), &e))?;
    }
    let status = created.restrict_self().map_err(|e| fault("cannot apply Landlock's rules", &e))?;
    if status.ruleset != RulesetStatus::FullyEnforced || !status.no_new_privs {
        return Err(StartError::new("Landlock's rules are not fully in force", Errno::ENOTSUP));
    }
    Ok(())
}

/// The errno at the end of an error's chain of causes.
fn errno_of(error: &(dyn std::error::Error + 'static)) -> Errno {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref::<std::io::Error>()
            && let Some(code) = io.raw_os_error()
        {
            return Errno::from_raw(code);
        }
        cause = error.source();
    }
    Errno::UnknownErrno
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::path::AbsPath;

    /// For each ABI, what a writable directory's rule holds that the version before did not.
    #[test]
    fn rights_grow_with_the_abi() {
        let grant = |grant, dir| PathGrant { path: AbsPath::root(), grant, dir };
        let write = |abi| rights(&grant(Grant::Write, true), known(abi));
        for (abi, new) in [
            (2, AccessFs::Refer.into()),
            (3, AccessFs::Truncate.into()),
            (4, BitFlags::EMPTY),
            // Devices keep their ioctls out of writable trees.
            (5, BitFlags::EMPTY),
            (6, BitFlags::EMPTY),
            (7, BitFlags::EMPTY),
            (8, BitFlags::EMPTY),
            (9, BitFlags::from(AccessFs::ResolveUnix)),
            (12, BitFlags::EMPTY),
        ] {
            assert_eq!(write(abi) & !write(abi - 1), new, "ABI {abi}");
        }
        assert!(!write(9).intersects(make_bitflags!(AccessFs::{MakeChar | MakeBlock | IoctlDev})));
        for abi in 1..10 {
            let abi = known(abi);
            for word in [
                Grant::List,
                Grant::Read,
                Grant::ReadData,
                Grant::WriteData,
                Grant::Write,
                Grant::Device,
                Grant::Terminal,
            ] {
                for dir in [false, true] {
                    let rights = rights(&grant(word, dir), abi);
                    assert!(AccessFs::from_all(abi).contains(rights), "{abi:?} {word:?}");
                    assert!(dir || AccessFs::from_file(abi).contains(rights), "{abi:?} {word:?}");
                }
            }
        }
    }
}
