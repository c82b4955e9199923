//! Takes the debug information out of the kernel programs' object: the compiler needs it to make BTF of it, nobody reads it
//! then, and it is four fifths of the object.

use object::build::elf::{Builder, SectionData};
use object::elf::SHT_STRTAB;

/// The object without sections of DWARF; those of BTF stay.
pub(crate) fn strip(elf: &[u8]) -> object::build::Result<Vec<u8>> {
    let mut object = Builder::read(elf)?;
    for section in &mut object.sections {
        let name = section.name.strip_prefix(b".rel").unwrap_or(&section.name);
        section.delete = name.starts_with(b".debug");
    }
    // LLVM keeps the names of sections among those of symbols; here they need a section of their own.
    let names = object.sections.add();
    names.name = ".shstrtab".into();
    names.sh_type = SHT_STRTAB;
    names.data = SectionData::SectionString;
    object.delete_orphans();
    let mut stripped = Vec::new();
    object.write(&mut stripped)?;
    Ok(stripped)
}
